"""Writes docs/guide.md and its figure from the ground truth: validation of the quick test, and findings.

python quick_sensitivity.py --guide
"""

import itertools
import math
from pathlib import Path

import numpy as np

from analysis.labels import activation_label, architecture_label
from common.errors import UserError
from common.files import write_atomically
from sensitivity import cases, labels, scores, truth
from sensitivity.predictor import log_score
from sensitivity.validation import FOLLOWED, choices, validate

DOCS = Path(__file__).resolve().parents[1] / "docs"
OUTCOMES = {"loss": "final loss (more than 0.02 nats)", "pd": "relative PD at a fixed loss (more than 5%)"}
FAILS = """ **That is no better than a coin, so `quick_sensitivity.py` always answers "inconclusive" for this
outcome.** (This rule was added when the labels were known; it can only turn answers into "inconclusive".)"""
SURE = 0.9  # a label above it is called "matters", below 1 - SURE "does not"


def write(known: dict[str, dict] | None = None, folder: Path = DOCS, permutations: int = 99) -> list[Path]:
    """Writes guide.md and figures/guide_tree.png and returns their paths; raises UserError without a ground truth."""
    known = truth.load() if known is None else known
    if not truth.enough(known, "loss"):
        raise UserError(
            f"there is no ground truth yet ({len(known)} cases; {truth.FEWEST_CASES} with a label are needed);"
            " make it with: python quick_sensitivity.py --ground-truth"
        )
    tables = {outcome: truth.table(known, outcome) for outcome in cases.OUTCOMES if truth.enough(known, outcome)}
    reports = {outcome: validate(table, permutations) for outcome, table in tables.items()}
    ways = choices(known, tables["loss"], reports["loss"]["skipped"])
    parts = [
        _opening(known, reports, ways[FOLLOWED][1]),
        *(_validation(o, report, tables[o], known) for o, report in reports.items()),
    ]
    parts += [_saving(ways), _taxonomy(known), _which(known), _ablations(known)]
    parts += [_best_and_reproducible(known), _all_cases(known)]
    text, figure = Path(folder) / "guide.md", Path(folder) / "figures" / "guide_tree.png"
    figure.parent.mkdir(parents=True, exist_ok=True)
    draw_tree(reports["loss"], truth.validated_range(known), figure)
    write_atomically(text, ("\n\n".join(parts) + "\n").encode())
    return [text, figure]


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; all columns except the first are right-aligned."""
    lines = [header, ["---", *["--:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _number(value, decimals=3):
    return "none" if value is None or math.isnan(value) else f"{value:.{decimals}f}"


def _interval(value, interval, decimals=3):
    text = _number(value, decimals)
    return text if interval is None else f"{text} [{interval[0]:.{decimals}f}, {interval[1]:.{decimals}f}]"


# --- sections ---------------------------------------------------------------------------------------------------------


def _opening(known, reports, saved):
    """saved: the share of the training steps of full comparisons that following the quick test saves."""
    loss, covered = reports["loss"], truth.validated_range(known)
    families = len({case["family"] for case in known.values()})
    answers = loss["answers"]
    decided = (
        f"It decides {loss['decided']} of {loss['n']} cases of families that it has not seen"
        f' ({answers["does not matter"]} "does not matter", {answers["matters"]} "matters")'
        + (f", with an expected error of {loss['error']:.0%}" if loss["error"] is not None else "")
        + f"; 95% limit of the error {loss['error_limit_cases']:.0%} counting cases, {loss['error_limit_families']:.0%} counting"
        " families."
    )
    return f"""# Does this model need a comparison of activations?

Written by `python quick_sensitivity.py --guide` from {len(known)} cases in {families} families
([protocol](../results/reference/sensitivity/protocol.md)). Nothing here holds outside {covered["parameters"][0]:,} to
{covered["parameters"][1]:,} parameters, {covered["training steps"][0]:,} to {covered["training steps"][1]:,} training steps, and text.

```
python quick_sensitivity.py --architecture-file my_model.py --max-iters 600 --learning-rate 2e-3
```

![decision tree](figures/guide_tree.png)

The test that ships for the final loss is the **{loss["shipped"]}** (feature set: {loss["chosen"][0]}). {decided}
The activation matters in {_interval(loss["prevalence"], loss["prevalence_interval"], 2)} of the cases (mean probability; 95%
interval over families); the 2025 report's "80% insensitive" would be a value of 0.20. Following the test, and comparing in full
unless it says "does not matter", saves {saved:.0%} of the training steps (negative: it costs more than it saves); the report
promised 66 to 75%."""


def _validation(outcome, report, table, known):
    well = np.array([truth.well_trained(known[name]) for name in table.names])
    rest = log_score(report["p"][well], table.q[well]) if well.any() else None
    rows = [
        [name, *(_interval(*scored[score]) for score in ("log score", "Brier", "AUROC"))]
        for name, scored in report["rivals"].items()
    ]
    bins = "; ".join(f"{n} cases, predicted {_number(p, 2)}, true {_number(q, 2)}" for n, p, q in report["reliability"])
    low, high = report["thresholds"]
    limits = [f"below {low:.2f}" if low >= 0 else "never", f"from {high:.2f} on" if high <= 1 else "never"]
    return f"""## Validation: {OUTCOMES[outcome]}

Leave one family out, every choice inside the folds; n = {report["n"]} cases, {report["n_families"]} families. Lower scores are better;
95% intervals over families.

{markdown_table(["", "log score", "Brier", "AUROC"], rows)}

Shipped: {report["shipped"]} (feature set {report["chosen"][0]}, penalty {report["chosen"][1]:g}). It says "does not matter"
{limits[0]}, "matters" {limits[1]}. Reliability in three bins: {bins}. Label permutation: p = {report["permutation_p"]:.3f}.
Decided: {report["decided"]} of {report["n"]}, expected error {_number(report["error"], 2)}.{FAILS if report["fails"] else ""}
Log score of the {well.sum()} cases that are trained well: {_number(rest)}."""


def _saving(ways):
    rows = [[way, _number(regret, 4), f"{saved:.0%}"] for way, (regret, saved) in ways.items()]
    return f"""## What it saves and what it costs

Expected excess of the final loss over that of the best activation, and the share of the training steps of a full comparison
(four trials of each of four activations) that is saved. Cases whose label rests on diverged trials are
left out.

{markdown_table(["way to choose", "excess loss (nats)", "steps saved"], rows)}"""


def _verdict(q):
    return "no label" if q is None else "matters" if q > SURE else "does not" if q < 1 - SURE else "open"


def _taxonomy(known):
    rows = []
    for family, outcome in itertools.product(dict.fromkeys(c["family"] for c in known.values()), cases.OUTCOMES):
        verdicts = [_verdict(truth.label(case, outcome)) for case in known.values() if case["family"] == family]
        counts = [str(verdicts.count(name)) for name in ("matters", "does not", "open", "no label")]
        rows.append([family, {"loss": "loss", "pd": "relative PD"}[outcome], *counts, str(len(verdicts))])
    return f"""## Where the activation matters

Cases by family: "matters" with a probability above {SURE}, "does not" below {1 - SURE:.1f}, else open.

{markdown_table(["family", "outcome", "matters", "does not", "open", "no label", "n"], rows)}"""


def _differences(known, activation):
    """(families, loss difference, log PD difference) against the default activation; NaN: missing."""
    families, loss, pd = [], [], []
    for case in known.values():
        values = labels.complete_blocks(list(case["truth"]["losses"].values()))
        k, reference = (list(case["truth"]["losses"]).index(a) for a in (activation, cases.DEFAULT_ACTIVATION))
        logs = truth.pd_values(case["truth"]["relative_pd"])
        families.append(case["family"])
        loss.append(float((values[k] - values[reference]).mean()) if values.shape[1] else math.nan)
        pd.append(math.nan if logs is None else float((logs[k] - logs[reference]).mean()))
    return np.array(families), np.array(loss), np.array(pd)


def _mean_over_families(values, families):
    """(mean, 95% interval over families) of the known values."""
    known = ~np.isnan(values)
    if not known.any():
        return None, None
    values, families = values[known], families[known]
    return float(values.mean()), scores.over_families(lambda k: float(values[k].mean()), families)


def _which(known):
    rows, better = [], {"loss": [], "reproducibility": []}
    for activation in cases.ACTIVATIONS:
        if activation == cases.DEFAULT_ACTIVATION:
            continue
        families, loss, pd = _differences(known, activation)
        found = [_mean_over_families(values, families) for values in (loss, 100 * pd)]
        rows.append([activation_label(activation), _interval(*found[0], 4), _interval(*found[1], 1)])
        for purpose, (mean, interval) in zip(better, found):
            if mean is not None and interval is not None and interval[1] < 0:
                better[purpose].append(activation_label(activation))
    both = [name for name in better["loss"] if name in better["reproducibility"]]
    lines = [
        f"- for {purpose}: {', '.join(names) or 'no evidence against ReLU'}"
        for purpose, names in (better | {"both": both}).items()
    ]
    return f"""## Which activation to pick

Mean difference from ReLU over the cases, 95% interval over families. An activation is named where its interval lies below 0.

{markdown_table(["", "final loss (nats)", "log relative PD at a fixed loss (x 100)"], rows)}

{chr(10).join(lines)}"""


def _largest(case):
    losses = case["truth"]["losses"]
    if any(loss is None for row in losses.values() for loss in row):
        return "diverged trials"
    return _interval_of(labels.largest_difference(np.array(list(losses.values())), cases.LOSS_MARGIN))


def _interval_of(triple):
    return f"{triple[0]:.4f} [{triple[1]:.4f}, {triple[2]:.4f}]"


def _ablations(known):
    rows = [
        [
            _label(case),
            case["group"],
            f"{case['learning_rate']:g}",
            _largest(case),
            _number(truth.label(case, "loss"), 2),
        ]
        for case in known.values()
        if case["architecture"].startswith(("charlm", *cases.ONE_OF_EACH))
    ]
    return f"""## What makes an architecture sensitive?

Largest difference between two activations' final losses (median and 95% interval of the posterior distribution), with normalisation, residual
connections, heads, depth and width varied.

{markdown_table(["model", "group", "learning rate", "largest difference (nats)", "P(matters)"], rows)}"""


def _label(case):
    base = next((a for a in cases.ELEVEN if case["architecture"] == a), None)
    return architecture_label(base) if base else case["architecture"].replace("_", " ")


def _best_and_reproducible(known):
    from scipy.stats import rankdata

    families, correlations, same = [], [], []
    for case in known.values():
        losses = labels.complete_blocks(list(case["truth"]["losses"].values()))
        logs = truth.pd_values(case["truth"]["relative_pd"])
        if losses.shape[1] == 0 or logs is None:
            continue
        a, b = rankdata(losses.mean(1)), rankdata(logs.mean(1))
        families.append(case["family"])
        correlations.append(float(np.corrcoef(a, b)[0, 1]))
        same.append(float(a.argmin() == b.argmin()))
    found = [_mean_over_families(np.array(values), np.array(families)) for values in (correlations, same)]
    return f"""## Is the activation with the lowest loss the most reproducible?

Rank correlation of final loss and relative PD at a fixed loss over the four activations, mean over {len(families)} cases:
{_interval(*found[0], 2)}. The same activation is best in both in {_interval(*found[1], 2)} of the cases (0.25 if they had nothing to do
with each other); 95% intervals over families."""


def _all_cases(known):
    rows = [
        [
            name + ("" if truth.well_trained(case) else " *"),
            case["family"],
            f"{case['n_parameters']:,}",
            _largest(case),
            *(_number(truth.label(case, outcome), 2) for outcome in cases.OUTCOMES),
            *(_number(truth.briefly(case, outcome), 2) for outcome in cases.OUTCOMES),
        ]
        for name, case in known.items()
    ]
    header = [
        "case",
        "family",
        "parameters",
        "largest difference (nats)",
        "P loss",
        "P PD",
        "briefly: loss",
        "briefly: PD",
    ]
    return f"""## All cases

P: probability that the activation matters, of the full trials (the label) and of the quick ones by themselves. * not trained well: the
best activation's mean loss is not below {truth.BIGRAM} nats.

{markdown_table(header, rows)}"""


# --- the figure -------------------------------------------------------------------------------------------------------


def draw_tree(report: dict, covered: dict[str, tuple[float, float]], path: Path) -> Path:
    """The decision tree for the final loss, with fitted thresholds and the number of cases per leaf (out of fold)."""
    import matplotlib

    from figures.style import FAINT, INK, QUIET, STYLE, add_title, panels, save

    low, high = report["thresholds"]
    counts = report["answers"]
    size = "{:,} to {:,} parameters".format(*covered["parameters"]) + "\n{:,} to {:,} steps, text?".format(
        *covered["training steps"]
    )
    questions = [size, "an activation diverged\nin the quick trials?", f"P(matters), by\n{report['shipped']}"]
    leaves = [
        (0, "no", "inconclusive:\noutside the validated range"),
        (1, "yes", "matters"),
        (2, f"at least {high:.2f}" if high <= 1 else "never", f"matters\n{counts['matters']} of {report['n']} cases"),
        (2, "between", f"inconclusive\n{counts['inconclusive']} of {report['n']} cases"),
        (
            2,
            f"at most {low:.2f}" if low >= 0 else "never",
            f"does not matter\n{counts['does not matter']} of {report['n']} cases",
        ),
    ]
    with matplotlib.rc_context(STYLE):
        drawn, ((ax,),) = panels(3.4)
        ax.set_axis_off()
        ax.set_xlim(0, 10)
        ax.set_ylim(0, 5)
        places = [4.4, 3.1, 1.5]
        box = {"boxstyle": "round,pad=0.5", "facecolor": FAINT, "edgecolor": INK, "linewidth": 0.8}
        for y, text, below in zip(places, questions, ("yes", "no", None)):
            ax.text(2.2, y, text, ha="center", va="center", bbox=box)
            if below:
                nxt = places[places.index(y) + 1]
                ax.annotate("", (2.2, nxt + 0.45), (2.2, y - 0.45), arrowprops={"arrowstyle": "->", "color": QUIET})
                ax.text(2.35, (y + nxt) / 2, below, va="center", color=QUIET)
        for (k, answer, text), y in zip(leaves, (4.4, 3.1, 2.1, 1.3, 0.4)):
            ax.annotate("", (6.6, y), (3.9, places[k]), arrowprops={"arrowstyle": "->", "color": QUIET})
            plain = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
            ax.text(5.25, (y + places[k]) / 2, answer, ha="center", va="center", color=QUIET, bbox=plain)
            ax.text(6.8, y, text, ha="left", va="center")
        line = f"n = {report['n']} cases in {report['n_families']} families, each answered without its family; thresholds of all cases"
        add_title(drawn, "Does this model need a comparison of activations?", line)
        return save(drawn, path)
