"""The schema of a study's JSON files: one TypedDict per object. docs/results-format.md explains every field.

    study.json                       StudyFile
    <architecture>_<activation>.json Result
    all_experiments_summary.json     SummaryFile

`mismatches` compares a file's content with its TypedDict. Optional fields are NotRequired; a field without a value is
null (None). Losses are in nats, accuracies are fractions, times are in seconds.
"""

import functools
from types import NoneType, UnionType
from typing import Any, Literal, NotRequired, TypedDict, Union, get_args, get_origin, get_type_hints, is_typeddict

# --- provenance -----------------------------------------------------------------------------------------------------


class Hardware(TypedDict):
    cpu: str
    cores: int | None
    system: str


class Provenance(TypedDict):
    """The version of the program that wrote a file, and the machine."""

    git_commit: str | None
    versions: dict[str, str]
    hardware: Hardware
    checksum: str


class Environment(TypedDict):
    """Versions and hardware that a trial ran on."""

    torch: str
    numpy: str
    python: str
    system: str
    cpu: str
    cpu_capability: str
    gpu: str | None
    cuda: NotRequired[str | None]
    cudnn: NotRequired[int | None]
    multiprocessors: NotRequired[int]
    threads: int
    variables: NotRequired[dict[str, str]]
    git_commit: NotRequired[str | None]
    compiler: NotRequired[str]


# --- identity -------------------------------------------------------------------------------------------------------


class Identity(TypedDict):
    """The identity of a study. Text has `corpus_sha256`; other tasks have `task` and `data_sha256`."""

    protocol: Literal["matched", "published"]
    corpus_sha256: NotRequired[str]
    task: NotRequired[str]
    data_sha256: NotRequired[str]
    device: Literal["cpu", "cuda"]
    seed_base: int
    vary: list[str]
    config: dict[str, int | float | str]
    learning_rates: NotRequired[dict[str, float]]
    numerics_version: int
    pack: NotRequired[int]
    compiled: NotRequired[bool]


class CorpusFacts(TypedDict):
    """The text of a study."""

    label: str
    sha256: str
    characters: int
    vocabulary_size: int
    path: NotRequired[str]


# --- trials ---------------------------------------------------------------------------------------------------------


class Seeds(TypedDict):
    """The seed of each random stream of a trial."""

    init: int
    data: int
    dropout: int
    bit: int | None


class HistoryPoint(TypedDict):
    """One point of a trial's training curves."""

    step: int
    train_loss: float | None
    val_loss: float | None
    probes: NotRequired[dict[str, float | list[float] | dict[str, float]]]


class Evaluation(TypedDict):
    """Losses and accuracies over all evaluation windows."""

    train_loss: float
    val_loss: float
    train_accuracy: float
    val_accuracy: float


class Score(TypedDict):
    """A model's score, for tasks where loss and accuracy are not enough."""

    name: str
    value: float
    higher_is_better: bool


class TrialRecord(TypedDict):
    """One trained model."""

    trial: int
    seed: int
    seeds: Seeds
    status: Literal["complete", "diverged", "failed"]
    train_loss: float | None
    val_loss: float | None
    train_accuracy: float | None
    val_accuracy: float | None
    training_time_s: float | None
    evaluation_time_s: float | None
    history: list[HistoryPoint]
    checkpoint: str | None
    weights_sha256: str | None
    environment: Environment | None
    reason: NotRequired[str]
    continuations: NotRequired[list[str] | None]
    score: NotRequired[Score]
    activation_parameters: NotRequired[dict[str, list[float]]]
    matched: NotRequired[Evaluation | None]


# --- pairs ----------------------------------------------------------------------------------------------------------


class PairHistoryPoint(TypedDict):
    """Metrics of a pair at one point of the training curves."""

    step: int
    relative_pd: float
    top1_disagreement: float


class Pair(TypedDict):
    """Two complete trials, compared by the metrics of metrics.py on all evaluation windows of the validation split."""

    trial_a: int
    trial_b: int
    relative_pd: float
    shamir_relative_pd: float
    top1_disagreement: float
    prediction_differences: int
    total_predictions: int
    top3_overlap: float
    top5_overlap: float
    symmetric_kl: float | None
    js_divergence: float
    perplexity_pearson: float | None
    perplexity_spearman: float | None
    ensemble_gain: float | None
    cohen_kappa: float
    error_consistency: float
    edit_distance: NotRequired[float | None]
    relative_pd_last_position: NotRequired[float]
    top1_disagreement_last_position: NotRequired[float]
    history: list[PairHistoryPoint]


class PublishedPair(TypedDict):
    """Two trials, compared as in the 2025 report: each model on its own random contexts."""

    trial_a: int
    trial_b: int
    relative_pd: float | None
    prediction_differences: int | None
    total_predictions: int


# --- summaries ------------------------------------------------------------------------------------------------------


class Estimate(TypedDict):
    """A mean over trials, or over pairs of trials, with its uncertainty."""

    mean: float | None
    sd: float | None
    n: int
    ci95: list[float] | None
    method: str
    df: NotRequired[float]
    reason: NotRequired[str]


class ExperimentSummary(TypedDict):
    """Summary of one architecture with one activation."""

    architecture: str
    activation: str
    n_trials: int
    n_diverged: int
    n_pairs: int
    summary: dict[str, Estimate]


# --- files ----------------------------------------------------------------------------------------------------------


class Sizes(TypedDict):
    """The size of a model, and the size it was matched to."""

    width: int
    n_parameters: int
    n_parameters_charlm: NotRequired[int]  # text only


class ValuesFile(TypedDict):
    """A file with values per window, in the folder of the result."""

    file: str
    sha256: str


class Result(TypedDict):
    """<architecture>_<activation>.json: the trials and pairs of one architecture with one activation."""

    kind: NotRequired[str]
    schema_version: int
    numerics_version: int
    architecture: str
    activation: str
    source_sha256: NotRequired[dict[str, str]]
    identity: Identity
    corpus: NotRequired[CorpusFacts]
    task: NotRequired[dict[str, Any]]
    n_parameters: int
    sizes: Sizes | None
    trials: list[TrialRecord]
    pairs: list[Pair]
    published_pairs: NotRequired[list[PublishedPair] | None]
    values: NotRequired[list[ValuesFile]]
    summary: dict[str, Estimate]
    provenance: Provenance


class StudyFile(TypedDict):
    """study.json: the identity of the study in a folder."""

    kind: NotRequired[str]
    schema_version: int
    identity: Identity
    provenance: Provenance


class SummaryFile(TypedDict):
    """all_experiments_summary.json: every experiment of a folder, in the order of all tables."""

    kind: NotRequired[str]
    schema_version: int
    identity: Identity
    corpus: NotRequired[CorpusFacts]
    task: NotRequired[dict[str, Any]]
    experiments: dict[str, ExperimentSummary]
    provenance: Provenance


# --- validation -----------------------------------------------------------------------------------------------------

PYTHON_TYPES: dict[Any, Any] = {int: int, float: (int, float), str: str, bool: bool, NoneType: NoneType, Any: object}
WORDS = {int: "integer", float: "number", str: "text", bool: "boolean", NoneType: "null", Any: "any value"}


def mismatches(value: Any, kind: Any, where: str = "", unknown_fields: bool = False) -> list[str]:
    """Mismatches of a JSON value and an annotation: missing fields, unknown fields, wrong types.

    Parameters
    ----------
    value
        From json.loads.
    kind
        A TypedDict, or another annotation of this module.
    where : str
        Path of the value in the file, for the messages.
    unknown_fields : bool
        Whether unknown fields are allowed, as when reading.

    Returns
    -------
    list of str
        One message each; [] if the value matches.

    >>> mismatches({"step": 0, "train_loss": "4.2"}, HistoryPoint)
    ['val_loss is missing', "train_loss: expected number, found '4.2'"]
    """
    origin, options = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        if any(not mismatches(value, option, where, unknown_fields) for option in options):
            return []
        without_null = [option for option in options if option is not NoneType]
        if len(without_null) == 1:
            return mismatches(value, without_null[0], where, unknown_fields)
        return [_sentence(value, kind, where)]
    if is_typeddict(kind) and isinstance(value, dict):
        return _mismatches_of_fields(value, kind, f"{where}." if where else "", unknown_fields)
    if origin is list and isinstance(value, list):
        parts = [(f"{where}[{i}]", item, options[0]) for i, item in enumerate(value)]
        return [text for place, item, part in parts for text in mismatches(item, part, place, unknown_fields)]
    if origin is dict and isinstance(value, dict):
        parts = [(f"{where}.{name}", item, options[1]) for name, item in value.items()]
        return [text for place, item, part in parts for text in mismatches(item, part, place, unknown_fields)]
    if origin is Literal:
        fits = value in options
    else:  # in Python true is an integer; in JSON it is not
        fits = isinstance(value, PYTHON_TYPES.get(kind, ())) and (kind in (bool, Any) or not isinstance(value, bool))
    return [] if fits else [_sentence(value, kind, where)]


@functools.cache
def _fields(kind):
    """Field of a TypedDict -> (annotation, Python types whose every value is valid)."""
    return {name: (annotation, _plain_types(annotation)) for name, annotation in get_type_hints(kind).items()}


def _plain_types(kind):
    if get_origin(kind) in (Union, UnionType):
        return frozenset().union(*map(_plain_types, get_args(kind)))
    return {int: frozenset({int}), float: frozenset({int, float})}.get(kind, frozenset({kind} & {str, bool, NoneType}))


def _mismatches_of_fields(value, kind, prefix, unknown_fields):
    fields = _fields(kind)
    found = [f"{prefix}{name} is missing" for name in fields if name in kind.__required_keys__ and name not in value]
    if not unknown_fields:
        found += [f"{prefix}{name} is unknown" for name in value if name not in fields]
    for name, (annotation, plain_types) in fields.items():
        if name in value and type(value[name]) not in plain_types:  # a shortcut for most fields
            found += mismatches(value[name], annotation, f"{prefix}{name}", unknown_fields)
    return found


def _sentence(value, kind, where):
    return f"{where}: expected {type_name(kind)}, found {value!r:.60}"


def type_name(kind: Any) -> str:
    """An annotation as written in docs/results-format.md: 'integer or null', 'list of HistoryPoint'."""
    origin, options = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return " or ".join(type_name(option) for option in options)
    if origin is list:
        return f"list of {type_name(options[0])}"
    if origin is dict:
        return f"name → {type_name(options[1])}"
    if origin is Literal:
        return " or ".join(f"`{option}`" for option in options)
    return WORDS.get(kind) or kind.__name__
