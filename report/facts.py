"""Sections on the study itself: what was run, what is missing, methods."""

import itertools
from collections.abc import Sequence

import metrics
from analysis.labels import activation_label, data_facts
from analysis.results import SOURCES, Cell, Study
from analysis.words import listing, number, plural
from common.provenance import numeric_environment
from config import Config
from config_cpu import ConfigCPU
from report.document import Section, Table
from report.view import RESUME, View, counted

# --- what was run ---------------------------------------------------------------------------------------------------


def title(study: Study) -> str:
    """The title of the document."""
    names = listing(cells[0].architecture_label for cells in study.architectures.values())
    return f"How reproducible are the predictions of {names}?"


def subtitle(study: Study) -> str:
    """Activations, trials, corpus, protocol, device and training steps in one line."""
    identity, first = study.identity, next(iter(study.architectures.values()))
    activations = list(dict.fromkeys(cell.label for cell in study.cells))
    names = listing(activations) if len(activations) <= 6 else f"{len(activations)} activations"
    return (
        f"{names}; {counted(study.cells)}; {'corpus' if 'corpus' in first[0].result else 'data'} {study.corpus_label}; {identity['protocol']} protocol;"
        f" {identity['device']}; {identity['config']['max_iters']:,} training steps."
    )


def study_facts(view: View) -> Section:
    """The section "What was run": identity, environment, and what is missing."""
    study, identity = view.study, view.study.identity
    config, cells = identity["config"], study.cells
    data, is_text = data_facts(cells[0].result), "corpus" in cells[0].result
    environments = environments_of(cells)
    machines = sorted({machine(environment, detailed=len(environments) > 1) for environment in environments})
    commits = sorted({_short(cell.result.get("provenance", {}).get("git_commit")) for cell in cells})
    sizes = f"{config['n_layer']} layers, width {config['n_embd']}, {plural(config['n_head'], 'head')}"
    sizes += f", context {config['block_size']}" if is_text else ""
    steps = f"{config['max_iters']:,} steps of {config['batch_size']} {'sequences' if is_text else 'examples'}"
    rates = f"learning rate {config['learning_rate']:g}, weight decay {config['weight_decay']:g}"
    parameters = sorted({cell.result["n_parameters"] for cell in cells})
    varied = "everything (one generator feeds all)"
    if identity["protocol"] != "published":
        varied = listing(SOURCES[name] for name in identity["vary"]) if identity["vary"] else "nothing"
    size = f", {data['characters']:,} characters" if is_text else ""
    rows = [
        ["Corpus" if is_text else "Data", f"{data['label']}{size}, SHA-256 {data['sha256'][:16]}"],
        ["Protocol", identity["protocol"]],
        ["Device", f"{identity['device']}, {config['dtype']}, {plural(config['threads_per_trial'], 'thread')} a trial"],
        ["Model", f"{sizes}, dropout {config['dropout']:g}; {_span(parameters)} parameters"],
        ["Training", f"{steps}, {rates}{_further_fields(config)}"],
        ["Trials", f"{counted(cells)}; trial k has seed {identity['seed_base']} + k - 1"],
        ["Differs between trials", varied],
        ["Computing time", _time(cells)],
        ["Machine", "; ".join(machines) or "not recorded"],
        ["Program", f"commit {listing(commits)}, numerics version {identity['numerics_version']}"],
    ]
    if isinstance(view.baselines, str):
        rows.append(["Baselines", f"left out: {view.baselines}"])
    else:
        rows += [
            [b.name.capitalize(), f"validation loss {b.loss:.4f} nats, accuracy {b.accuracy:.2%}"]
            for b in view.baselines
        ]
    content: list = [["**Missing or left out:**", *view.missing]] if view.missing else []
    if len(environments) > 1:
        content.append(
            f"**Mixed environments**: the trials ran in {len(environments)} different ones (below). Bits are promised within"
            " one only; differences between activations may hold differences between machines."
        )
    if is_text and data["label"] != "shakespeare":
        content.append(f"The corpus is {data['label']}, not Shakespeare: values are comparable within this text only.")
    table = Table(["", "What was run"], rows, "The study's identity and provenance, from its result files.")
    return Section("What was run", [*content, table])


def _time(cells):
    """Total times of all trials, including diverged ones."""
    records = [record for cell in cells for record in cell.result["trials"]]
    training, evaluation = (sum(r.get(f"{kind}_time_s") or 0 for r in records) for kind in ("training", "evaluation"))
    return f"training {number(training, 0)} s, evaluation {number(evaluation, 0)} s (sums over {plural(len(records), 'trial')})"


def environments_of(cells: Sequence[Cell]) -> list[dict]:
    """The distinct numeric environments of the trials."""
    found: list[dict] = []
    for record in itertools.chain.from_iterable(cell.result["trials"] for cell in cells):
        if record.get("environment") and (environment := numeric_environment(record["environment"])) not in found:
            found.append(environment)
    return found


def machine(environment: dict, detailed: bool) -> str:
    """An environment as text; `detailed`: with what can differ on one machine (instruction set, NumPy, variables)."""
    words = [environment["gpu"] or environment["cpu"], f"torch {environment['torch']}", environment["system"]]
    if detailed:
        words += [str(environment.get("cpu_capability")), f"NumPy {environment.get('numpy')}"]
        words += [f"{name}={value}" for name, value in environment.get("variables", {}).items()]
    return ", ".join(words)


def _further_fields(config):
    """What else of a configuration is not as both of the project's configurations have it: ', cooldown 0.2'."""
    usual, cpu = Config().as_dict(), ConfigCPU().as_dict()
    shown = ("batch_size", "dropout", "weight_decay", "learning_rate", "threads_per_trial")
    return "".join(
        f", {name.replace('_', ' ')} {value}"
        for name, value in config.items()
        if name not in shown and usual.get(name) == cpu.get(name) != value
    )


def _short(commit):
    """'a36bdcf0ca7b' or 'a36bdcf0ca7b+changes'."""
    return "unknown" if commit is None else commit[:12] + commit[40:]


def _span(values):
    return f"{values[0]:,}" if len(values) == 1 else f"{values[0]:,} to {values[-1]:,}"


def what_is_missing(cells: Sequence[Cell], planned: Sequence[tuple[str, str]]) -> list[str]:
    """Sentences on trials and pairs that are not there. planned: every (architecture, activation) of the study."""
    found = []
    present = {(cell.architecture, cell.activation) for cell in cells}
    for architecture, activation in planned:
        if (architecture, activation) not in present:
            found.append(f"{architecture} with {activation}: no result file yet.")
    most = max((record["trial"] for cell in cells for record in cell.result["trials"]), default=0)
    for cell in cells:
        where = f"{cell.architecture} with {cell.activation}"
        records = {record["trial"]: record for record in cell.result["trials"]}
        absent = [k for k in range(1, most + 1) if k not in records]
        if absent:
            numbers = listing(map(str, absent))
            found.append(f"{where}: {len(cell.trials)} of {plural(most, 'trial')}; not done: {numbers}.")
        for number_, record in records.items():
            if record["status"] != "complete":
                reason = f" ({record['reason']})" if record.get("reason") else ""
                found.append(f"{where}: trial {number_} {record['status']}{reason}; left out of all means and pairs.")
        if cell.n_missing_pairs:
            n_pairs = len(cell.pairs) + cell.n_missing_pairs
            found.append(f"{where}: {cell.n_missing_pairs} of {plural(n_pairs, 'pair')} not compared yet. {RESUME}")
        if cell.arrays is not None and (lacking := without_values(cell)):
            found.append(f"{where}: the values per window of {lacking} are missing (a file was deleted). {RESUME}")
    return found


def without_values(cell: Cell) -> str:
    """The numbers of trials and pairs without values per window, as text; '' if there are none."""
    trials = sum(f"trial_{k}_loss" not in cell.arrays for k in cell.trials)
    pairs = sum(f"pair_{p['trial_a']}_{p['trial_b']}_relative_pd" not in cell.arrays for p in cell.pairs)
    return " and ".join(plural(n, word) for n, word in ((trials, "trial"), (pairs, "pair")) if n)


def unfinished(study: Study, cells: Sequence[Cell]) -> list[str]:
    """The labels of an architecture's activations that are planned or begun, but not among the trained `cells`."""
    trained, architecture = {cell.activation for cell in cells}, cells[0].architecture
    begun = [(cell.architecture, cell.activation) for cell in study.cells]
    names = dict.fromkeys(activation for name, activation in (*study.planned, *begun) if name == architecture)
    return [activation_label(name) for name in names if name not in trained]


# --- methods --------------------------------------------------------------------------------------------------------


def methods(view: View) -> Section:
    """Definitions of all measures, intervals and verdicts."""
    margins = view.margins
    rows = [
        [metric.label, metric.formula, metric.unit or "-", metric.better or "-", metric.source]
        for metric in metrics.METRICS.values()
    ]
    table = Table(
        ["Measure", "Formula", "Unit", "Better", "Source"],
        rows,
        "Measures of a pair of models: p and q are their probabilities at the same positions, y the true class.",
    )
    items = [
        "A trial is one training run with one seed; a pair is two trials of the same architecture and activation. n counts"
        " trials everywhere, since pairs share models and are not independent.",
        "Intervals of losses, accuracies and times: Student's t over trials. Intervals of pair measures: the mean over pairs"
        " is a U-statistic of order two; its variance has a per-model and a per-pair component, with a t quantile at"
        " Satterthwaite's degrees of freedom. Below three trials there is no interval.",
        "An interval that would reach beyond the measure's range (a loss below 0, a share above 1) is printed and drawn"
        " truncated there. Its coverage stays the same, since the true value is among the possible ones. Result files keep"
        " the interval as computed.",
        "Comparisons are paired: trial k of one activation has the same seed as trial k of the other. A trial that either"
        " lacks is left out.",
        "Verdicts of a comparison: equivalent if two one-sided tests place the difference within the margin (Bonferroni over"
        " the family), else different if p is below 0.05 (Holm), else inconclusive, with the seeds needed for 80% power. The"
        " family: every activation against the reference times the four primary measures (validation loss, relative PD,"
        " top-1 disagreement, JS divergence), for each architecture. All other pairs of activations are a family per measure.",
        f"Margins of interest: {margins.loss:g} nats for the loss, {margins.pairs:.2g} of the reference's value for pair"
        " measures (options `--margin-loss`, `--margin-pairs`). Power is computed at these margins, never at the observed"
        " difference.",
        "Changes in percent take the reference's mean as known. Simulation study of these methods, with the cases in which"
        " they break: `python check_statistics.py`, docs/statistics.md.",
    ]
    return Section("Methods", [items, table], folded=True)
