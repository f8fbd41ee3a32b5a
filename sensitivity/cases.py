"""The cases of the ground truth: models, sizes, training recipes, and the studies that train them.

A case is an architecture in one group; a group is one configuration. Each group has three kinds of study with disjoint
seeds: `tuning` (one per learning rate), `quick`, whose trials give the features, and `truth`, whose trials give the
labels. The reasons are in results/reference/sensitivity/protocol.md.
"""

import math
from dataclasses import dataclass
from pathlib import Path

ACTIVATIONS = ("relu", "gelu", "swish", "smelu_1_centred")
DEFAULT_ACTIVATION = "relu"  # the choice without a comparison
LOSS_MARGIN = 0.02  # nats
LOG_PD_MARGIN = math.log(1.05)  # relative PD at a fixed loss: 5%
OUTCOMES = {"loss": LOSS_MARGIN, "pd": LOG_PD_MARGIN}

RATES = (1e-3, 2e-3, 4e-3, 8e-3)
TUNING_SHARE, QUICK_SHARE = 3, 6  # a third and a sixth of the steps
TRIALS = {"tuning": 1, "quick": 3, "truth": 4}
SEED_BASES = {"tuning": 7001, "quick": 7101, "truth": 8001}
PROBE, PROBED_TRIALS = "gradient_norm", 2  # recorded along training, for this many trials per activation
COMMON = {"n_head": 4, "block_size": 64, "batch_size": 16, "dropout": 0.0, "cooldown": 0.2, "curve_windows": 32}

FAMILIES = {  # for leave-one-family-out validation
    "attention": ("charlm", "minigpt", "nanotransformer", "charlm_single_head"),
    "recurrent": ("tinylstm", "gru", "rnn"),
    "hybrid": ("hybridlm", "lstm_attention"),
    "convolutional": ("convlm",),
    "mlp": ("mlp",),
}
ELEVEN = tuple(name for names in FAMILIES.values() for name in names)
WITHOUT = (
    "charlm_no_norm",
    "charlm_post_norm",
    "charlm_no_residual",
    "charlm_plain",
    "convlm_no_norm",
    "mlp_no_norm",
    "rnn_no_norm",
)
ONE_OF_EACH = ("charlm", "rnn", "convlm", "mlp")


@dataclass(frozen=True)
class Group:
    """Cases of one configuration. steps: of a `truth` trial."""

    name: str
    n_layer: int
    n_embd: int
    steps: int
    architectures: tuple[str, ...]
    n_head: int = COMMON["n_head"]

    def config_fields(self) -> dict:
        """The configuration of the truth, without the learning rate."""
        sizes = {"n_layer": self.n_layer, "n_embd": self.n_embd, "n_head": self.n_head}
        return COMMON | sizes | {"max_iters": self.steps, "eval_interval": self.steps // 30}


GROUPS = (
    Group("small", 2, 32, 600, ELEVEN),
    Group("medium", 2, 64, 600, ELEVEN + WITHOUT),
    Group("shallow", 1, 64, 900, ONE_OF_EACH),
    Group("deep", 4, 32, 450, ONE_OF_EACH),
    Group("many_heads", 2, 64, 600, ("charlm",), n_head=16),
)


def family_of(architecture: str) -> str:
    """The family of a built-in architecture or variant, else "other"."""
    for family, names in FAMILIES.items():
        if any(architecture == name or architecture.startswith(f"{name}_") for name in names):
            return family
    return "other"


def study_options(group: Group, kind: str, folder: Path, rates: dict[str, float] | None = None, rate=None) -> list[str]:
    """The options of run_all_experiments.py for one study of a group.

    Parameters
    ----------
    kind : {"tuning", "quick", "truth"}
    folder : path
        Of the whole ground truth; contains the study's folder.
    rates : dict, optional
        Architecture -> learning rate, for `quick` and `truth`.
    rate : float, optional
        Learning rate of all architectures, for `tuning`.
    """
    fields = group.config_fields()
    if kind != "truth":
        fields["max_iters"] //= TUNING_SHARE if kind == "tuning" else QUICK_SHARE
        fields["eval_interval"] = fields["max_iters"]
    options = [
        "--config",
        "cpu",
        "--device",
        "cpu",
        "--compile",
        "off",
        "--dtype",
        "float32",
        "--corpus",
        "shakespeare",
    ]
    for name, value in fields.items():
        options += [f"--{name.replace('_', '-')}", str(value)]
    options += ["--architectures", *group.architectures, "--activations", *ACTIVATIONS]
    options += ["--trials", str(TRIALS[kind]), "--seed-base", str(SEED_BASES[kind])]
    options += ["--probes", PROBE] if kind == "truth" else []
    words = [str(rate)] if rates is None else [f"{name}={value}" for name, value in rates.items()]
    return [*options, "--learning-rate", *words, "--results-dir", str(study_folder(group, kind, folder, rate))]


def study_folder(group: Group, kind: str, folder: Path, rate=None) -> Path:
    """The folder of one study of a group."""
    return Path(folder) / group.name / (f"{kind}_{rate:g}" if kind == "tuning" else kind)


def best_rates(losses: dict[float, dict[str, dict[str, float | None]]]) -> dict[str, tuple[float, float]]:
    """Architecture -> (learning rate, common loss), from the tuning trials.

    The rate is the one with the lowest mean final validation loss over the activations; rates at which one of them
    diverged are excluded. The common loss is the highest of their losses at that rate, rounded up to 0.05 nats.

    Parameters
    ----------
    losses : dict
        Learning rate -> architecture -> activation -> final validation loss; None: diverged.
    """
    found = {}
    for architecture in next(iter(losses.values())):
        means = {}
        for rate, table in losses.items():
            values = [math.inf if loss is None else loss for loss in table[architecture].values()]
            means[rate] = sum(values) / len(values)
        rate = min(means, key=lambda one: (means[one], one))
        highest = max(loss for loss in (*losses[rate][architecture].values(), -math.inf) if loss is not None)
        found[architecture] = (rate, 0.05 * math.ceil(round(highest / 0.05, 6)) if highest > -math.inf else -math.inf)
    return found
