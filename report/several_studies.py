"""Sections that need more than one architecture, more than one study, or both protocols.

Does the activation matter to every architecture? Where does irreproducibility come from? What does the arithmetic
change? What did the report's protocol measure? Apart from report/findings.py, which is about one architecture.
"""

import copy
from collections.abc import Callable, Sequence

from analysis import results
from analysis.labels import architecture_label
from analysis.results import MEASURES, Cell, Study
from analysis.significance import pair_matrix
from analysis.words import decimals_for, listing, plural, with_interval
from common import storage
from common.errors import UserError
from report.document import Section, Table
from report.tables import PAIRS_METHOD, counted, shown

CLAIMED_INSENSITIVE = ("minigpt", "nanotransformer", "hybridlm", "convlm")

# --- architectures --------------------------------------------------------------------------------------------------


def architectures(study: Study, sensitivities: dict) -> Section | None:
    """Whether the activation matters, architecture by architecture; None of one architecture."""
    if len(study.architectures) < 2:
        return None
    tables = [_sensitivity_table(study, sensitivities, name) for name in ("val_loss", "relative_pd")]
    return Section("architectures", "Does the activation matter to every architecture?", _claim(sensitivities), tables)


def _sensitivity_table(study, sensitivities, name):
    rows = []
    for architecture, cells in study.architectures.items():
        found = (sensitivities[architecture] or {}).get(name)
        parameters = sorted({cell.result["n_parameters"] for cell in cells})
        row = [cells[0].architecture_label, f"{parameters[0]:,}", str(len(cells))]
        if found is None:
            rows.append([*row, "-", "-", "-", "-", "fewer than two activations"])
            continue
        between = with_interval(found.between_sd, decimals_for(found.between_sd, MEASURES[name].decimals))
        spread = "-" if found.range_over_minimum is None else f"{found.range_over_minimum:.2%}"
        p = "-" if found.p is None else f"{found.p:.2g}"
        rows.append([*row, str(found.between_sd.n), between, spread, p, f"{found.verdict} ({found.reason})"])
    unit = f" ({MEASURES[name].unit})" if MEASURES[name].unit else ""
    headers = ["Architecture", "Parameters", "Activations", "n", f"Between-activation SD{unit}"]
    headers += ["Range / minimum", "p", "Verdict"]
    caption = (
        f"{MEASURES[name].label}: standard deviation between activations, sampling variance subtracted, with its 95 %"
        " interval (noncentral chi-square, trials as blocks); p: activations permuted within trials; n counts the trials"
        " that all activations have."
    )
    note = "Range / minimum of the activations' means is the report's figure; it grows with noise, and decides nothing."
    return Table(headers, rows, caption, note)


def _claim(sensitivities):
    """The report's 4 of 5, answered from the verdicts."""
    paragraphs = [
        "The report's section 7.1 finds 4 of 5 architectures insensitive (MiniGPT, NanoTransformer, HybridLM, ConvLM)."
        " Insensitive means here: every difference between two activations is shown to be within the margin of interest."
    ]
    for name, label in (("val_loss", "validation loss"), ("relative_pd", "relative PD")):
        kinds = {a: found[name].verdict.split(",")[0] for a, found in sensitivities.items() if found}
        counts = [(kind, [a for a in kinds if kinds[a] == kind]) for kind in ("sensitive", "insensitive", "undecided")]
        texts = [f"**{len(names)} {kind}**" + (f" ({_named(names)})" if names else "") for kind, names in counts]
        claimed = [a for a in CLAIMED_INSENSITIVE if a in kinds]
        refuted = [a for a in claimed if kinds[a] == "sensitive"]
        confirmed = [a for a in claimed if kinds[a] == "insensitive"]
        answer = ""
        if claimed:
            answer = (
                f" Of the four that the report calls insensitive, {len(claimed)} {'is' if len(claimed) == 1 else 'are'} here:"
                f" shown to be insensitive: {_named(confirmed)}; shown to be sensitive: {_named(refuted)}."
            )
        paragraphs.append(f"By {label}, of {plural(len(kinds), 'architecture')}: {', '.join(texts)}.{answer}")
    return paragraphs


def _named(architectures):
    return listing([architecture_label(name) for name in architectures])


# --- the report's protocol, step by step ----------------------------------------------------------------------------


def three_steps(cells: Sequence[Cell]) -> Section | None:
    """From the report's figure to the matched one with the same models; None of a matched study."""
    if cells[0].result["identity"]["protocol"] != "published":
        return None
    title = "From the report's relative PD to a matched one"
    paragraph = (
        "The same trained models, measured three ways. Under the report's protocol the two models of a pair never see the"
        " same context, so that the figure mostly says how two random places of the text differ. Given the same contexts,"
        " only the models differ."
    )
    tables = [
        _step_table(cells, "relative_pd", lambda pair: pair["relative_pd"]),
        _step_table(
            cells,
            "top1_disagreement",
            lambda pair: (
                None
                if pair["prediction_differences"] is None
                else pair["prediction_differences"] / pair["total_predictions"]
            ),
        ),
    ]
    return Section("three_steps", title, [paragraph, *_orders(cells)], tables)


def _steps(cell, name, published_value):
    """Estimates of: different contexts, last position; same contexts, last position; same contexts, all positions."""
    numbers = cell.numbers
    published = [
        (numbers.index(pair["trial_a"]), numbers.index(pair["trial_b"]), published_value(pair))
        for pair in cell.result.get("published_pairs") or []
        if {pair["trial_a"], pair["trial_b"]} <= set(numbers)
    ]
    return [
        results.of_pairs(pair_matrix(published, len(numbers)), name),
        results.of_pairs(results.matrix(cell, f"{name}_last_position"), name),
        results.estimate(cell, name),
    ]


def _step_table(cells, name, published_value):
    rows = []
    for cell in cells:
        row = [cell.label, str(len(cell.trials)), str(len(cell.pairs))]
        estimates = _steps(cell, name, published_value)
        rows.append([*row, *(with_interval(estimate, 4, n=len(cell.trials)) for estimate in estimates)])
    headers = ["Activation", "n", "Pairs", "1. Different contexts, last position"]
    headers += ["2. Same contexts, last position", "3. Same contexts, all positions"]
    return Table(headers, rows, f"{MEASURES[name].label}. {PAIRS_METHOD}", "Step 1 is the report's protocol.")


def _orders(cells):
    """The order of the activations by each step, as a sentence."""
    if len(cells) < 2:
        return []
    estimates = [_steps(cell, "relative_pd", lambda pair: pair["relative_pd"]) for cell in cells]
    texts = []
    for step, what in enumerate(("Step 1", "Step 2", "Step 3")):
        ordered = results.order(cells, [row[step].mean for row in estimates], "lower")
        if ordered:
            texts.append(f"{what}: {', '.join(cell.label for cell in ordered)}")
    uncertain = "" if max(len(cell.trials) for cell in cells) > 2 else "; two trials cannot say which of it is chance"
    return [f"Order by mean relative PD, lowest first{uncertain}. {'. '.join(texts)}."] if texts else []


# --- several studies ------------------------------------------------------------------------------------------------

MAY_DIFFER = ("vary", "device")  # beside these the arithmetic: config.dtype and config.threads_per_trial
ARITHMETIC = ("dtype", "threads_per_trial")


def check_comparable(studies: Sequence[Study]) -> None:
    """A UserError unless the studies differ only in what varies between trials, and in the arithmetic."""
    first = studies[0]
    for other in studies[1:]:
        ours, theirs = first.identity["corpus_sha256"], other.identity["corpus_sha256"]
        if ours != theirs:
            raise UserError(
                f"{first.folder} and {other.folder} were made on different corpora ({first.corpus_label}, SHA-256"
                f" {ours[:12]}..., against {other.corpus_label}, {theirs[:12]}...); only equal ones can be compared"
            )
    allowed = "--vary, dtype, device and threads_per_trial"
    check_alike(studies, _without_differences, "cannot be compared", allowed)


def check_alike(studies: Sequence[Study], compared: Callable[[Study], dict], refusal: str, allowed: str) -> None:
    """A UserError where two studies have one identity, or differ in what `compared` leaves of it.

    refusal: what the two are, in words. allowed: the names of what may differ.
    """
    first = studies[0]
    for position, other in enumerate(studies[1:], 1):
        difference = storage.first_difference(compared(first), compared(other))
        if difference:
            raise UserError(f"{first.folder} and {other.folder} {refusal}: {difference}; only {allowed} may differ")
        for earlier in studies[:position]:
            if earlier.identity == other.identity:
                raise UserError(
                    f"{earlier.folder} and {other.folder} are studies of the same identity; give one of them"
                )


def _without_differences(study):
    identity = copy.deepcopy(study.identity)
    for name in MAY_DIFFER:
        identity.pop(name)
    for name in ARITHMETIC:
        identity["config"].pop(name)
    return identity


def arithmetic(study: Study) -> str:
    """'cpu, float32, 1 thread'."""
    config = study.identity["config"]
    return f"{study.identity['device']}, {config['dtype']}, {plural(config['threads_per_trial'], 'thread')}"


def source_rows(studies: Sequence[Study], architecture: str) -> list[dict]:
    """The numbers behind the table and the figure of sources: all of them together first.

    Returns: {source, activation, cell, estimate (of relative PD), mean, low, high, n} of every study with the first
    one's arithmetic.
    """
    same = [study for study in studies if arithmetic(study) == arithmetic(studies[0])]
    same.sort(key=lambda study: -len(set(study.identity["vary"]) - {"bit"}))
    rows = []
    for study in same:
        for cell in study.architectures.get(architecture, []):
            estimate = results.estimate(cell, "relative_pd")
            numbers = {"mean": estimate.mean, "low": estimate.low, "high": estimate.high, "n": estimate.n}
            source = results.source_label(study.identity)
            rows.append(
                {"source": source, "activation": cell.activation, "cell": cell, "estimate": estimate, **numbers}
            )
    return rows


def sources(studies: Sequence[Study], architecture: str) -> Section | None:
    """Each source of randomness alone beside all of them together; None of one source."""
    rows = source_rows(studies, architecture)
    if len({row["source"] for row in rows}) < 2:
        return None
    everything = {row["activation"]: row["cell"] for row in rows if row["source"] == "all together"}
    table_rows = []
    for row in rows:
        cell, whole = row["cell"], everything.get(row["activation"])
        share, less = "-", "-"
        if row["source"] != "all together" and whole is not None:
            share = with_interval(results.share_of(cell, whole, "relative_pd"), 1)
            less = with_interval(results.compare(cell, whole, "relative_pd").difference, 4, signed=True)
        line = [row["source"], cell.label, str(len(cell.trials)), shown(cell, "relative_pd")]
        table_rows.append([*line, share, less, shown(cell, "top1_disagreement")])
    headers = [
        "What differs",
        "Activation",
        "n",
        "Relative PD",
        "% of all together",
        "Difference from all",
        "Top-1 disagr.",
    ]
    caption = (
        f"Relative PD where only one source of randomness differs between trials. {PAIRS_METHOD} Per cent and"
        " difference are paired by trial (trial k has the same seed in what both vary), over the trials that both have."
    )
    paragraphs = (
        [] if everything else ["No study in which everything varies was given, so there is no whole to compare with."]
    )
    paragraphs += _source_sentences(rows, everything)
    note = "Shares need not add up to 100 %: sources do not add up."
    return Section(
        "sources", "Where irreproducibility comes from", paragraphs, [Table(headers, table_rows, caption, note)]
    )


def _source_sentences(rows, everything):
    """One sentence per activation: the sources alone, in per cent of all together."""
    found = []
    for activation, whole in everything.items():
        own = [
            (row, share)
            for row in rows
            if row["activation"] == activation and row["source"] != "all together"
            if (share := results.share_of(row["cell"], whole, "relative_pd")) and share.mean is not None
        ]
        if own:
            texts = [f"{row['source']} alone {with_interval(share, 0)} % (n = {share.n})" for row, share in own]
            found.append(f"{whole.label}: of the relative PD of all together, {listing(texts)}.")
    return [found] if found else []


def arithmetics(studies: Sequence[Study], architecture: str) -> Section | None:
    """Loss and PD of each arithmetic (float32, bfloat16, device) against the first study's; None of one arithmetic."""
    rows = []
    for other in studies[1:]:
        base = next((s for s in studies if s.identity["vary"] == other.identity["vary"]), None)
        if base is None or arithmetic(base) == arithmetic(other):
            continue
        cells = {cell.activation: cell for cell in base.architectures.get(architecture, [])}
        for cell in other.architectures.get(architecture, []):
            if cell.activation not in cells:
                continue
            for name in ("val_loss", "relative_pd"):
                difference = results.compare(cell, cells[cell.activation], name).difference
                decimals = decimals_for(difference, MEASURES[name].decimals)
                line = [arithmetic(other), cell.label, MEASURES[name].label, str(difference.n)]
                line += [shown(cells[cell.activation], name), shown(cell, name)]
                rows.append([*line, with_interval(difference, decimals, signed=True)])
    if not rows:
        return None
    headers = ["Arithmetic", "Activation", "Measure", "n", arithmetic(studies[0]), "This arithmetic", "Difference"]
    caption = f"What the arithmetic changes: paired by trial, seeds and streams being the same. {PAIRS_METHOD}"
    cells = studies[0].architectures.get(architecture, [])
    paragraph = f"Against {arithmetic(studies[0])} ({counted(cells)})." if cells else ""
    return Section(
        "arithmetic", "What the arithmetic changes", [paragraph] if paragraph else [], [Table(headers, rows, caption)]
    )
