"""The tables of README and docs/report-setting.md hold what the shipped studies hold, digit for digit."""

import json
import re
from collections import Counter
from pathlib import Path

import answer_page
import exploratory_page
import numpy as np
import pytest
import repeatability_page

from analysis.contrasts import percent
from analysis.curves import CommonLoss
from analysis.equal_loss import NOT_REACHED
from analysis.outlying import outlying_runs_of_pairs
from analysis.pooled import explained, rows
from analysis.results import Margins, compare_cells, estimate, margin_of, matrix, pair_values, without
from analysis.results import in_percent as results_in_percent
from analysis.series import trial_curves
from analysis.significance import verdicts
from report.contrasts import in_percent

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "results" / "reference"
README = (ROOT / "README.md").read_text(encoding="utf-8")
SETTING = (ROOT / "docs" / "report-setting.md").read_text(encoding="utf-8")


def table(name, page=SETTING):
    """The rows of a marked table of a page, without its header: lists of cells."""
    text = re.search(rf"<!-- table: {name} -->\n(.*?)<!-- end -->", page, re.DOTALL).group(1)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]


def result(study, name):
    return json.loads((REFERENCE / study / f"{name}.json").read_text(encoding="utf-8"))


def labels():
    from activations import ACTIVATIONS, REPORT

    return {ACTIVATIONS[name].label: name for name in REPORT}


def interval(entry, decimals, factor=1):
    low, high = entry["ci95"]
    return f"{factor * entry['mean']:.{decimals}f} [{factor * low:.{decimals}f}, {factor * high:.{decimals}f}]"


@pytest.mark.parametrize(
    ("study", "activations", "n"),
    [
        ("matched", ["smelu_05", "smelu_1", "relu", "gelu", "swish"], 10),
        ("replication", ["smelu_05", "smelu_1", "relu", "gelu", "swish"], 20),
        ("longer", ["smelu_1", "relu"], 5),
    ],
)
def test_the_table_of_a_study_is_that_of_its_trials(study, activations, n):
    rows = table(study)
    assert [labels()[row[0]] for row in rows] == activations
    for activation, (_, *cells) in zip(activations, rows):
        summary = result(study, f"charlm_{activation}")["summary"]
        assert {summary[name]["n"] for name in ("val_loss", "relative_pd")} == {n}
        expected = [interval(summary[name], 4) for name in ("val_loss", "relative_pd", "top1_disagreement")]
        assert cells == [*expected, interval(summary["val_accuracy"], 2, 100)]


ANSWER = (ROOT / "docs" / "answer.md").read_text(encoding="utf-8")


def test_the_tables_of_the_answer_are_those_of_its_studies():
    """README's first table and all of docs/answer.md, as `python -m tests.helpers.answer_page` writes them."""
    made = answer_page.blocks()
    for page in (README, ANSWER):
        assert answer_page.filled(page, made) == page
    assert all(f"<!-- {name} -->" in README + ANSWER for name in made)


def test_the_tables_of_the_exploratory_studies_are_those_of_their_results():
    page = exploratory_page.PAGE.read_text(encoding="utf-8")
    assert exploratory_page.filled(page, exploratory_page.blocks()) == page


def test_the_tables_of_repeatability_are_those_of_the_confirmatory_study_and_its_rule():
    page = repeatability_page.PAGE.read_text(encoding="utf-8")
    assert repeatability_page.filled(page, repeatability_page.blocks()) == page
    assert repeatability_page.verdict() == repeatability_page.verdict_of_width() == "confirmed"


def test_what_one_bit_does_is_as_readme_says():
    found = repeatability_page.endpoints("activations")
    jumps = [v for (_, name), v in found.items() if repeatability_page.predicted(name)]
    others = [v for (_, name), v in found.items() if not repeatability_page.predicted(name)]
    text = " ".join(README.split())
    assert (len(jumps), len(others)) == (12, 24)
    assert f"a relative PD of {min(jumps):.1e} to {max(jumps):.1e} with the six" in text
    assert f"at most {max(others):.1e} with the other twelve" in text
    bits = {
        c.activation: estimate(c, "relative_pd")
        for c in exploratory_page.study(REFERENCE / "exploratory" / "vary_bit_float32").cells
    }
    relu, swish = bits["relu"].mean, bits["swish"].mean
    seeds = estimate(exploratory_page.cell_of(REFERENCE / "answer" / "primary", "relu"), "relative_pd").mean
    assert f"{relu:.3f} with ReLU, {relu / seeds:.0%} of what another seed causes, and {swish:.0e} with Swish" in text
    assert bits["swish"].high < 1e-5 < 1e-2 < bits["relu"].low


@pytest.fixture(scope="module")
def primary():
    return answer_page.cells_of(*answer_page.GROUPS)


def test_the_answers_sentences_have_the_numbers_of_the_tables(primary):
    first, end = (
        [c.comparison.difference for c in answer_page.found_at(primary, common=common)]
        for common in (answer_page.COMMON, None)
    )
    claim, screen = (" ".join(text.split()) for text in (ANSWER.partition("![")[0], README))
    for difference in first[:2]:
        mean, low, high = percent(difference)
        assert f"by {-mean:.1f}% [{-high:.1f}, {-low:.1f}] with" in claim
        assert f"by {-mean:.1f}% [{-high:.1f}, {-low:.1f}] with" in screen
    mean, low, high = percent(first[3])
    assert f"{mean:.1f}% [{low:.1f}, {high:.1f}] higher than its centred form" in claim
    ends = [percent(estimate)[0] for estimate in end[:3]]
    assert all(f"{min(ends):.1f} to {max(ends):.1f}% *higher*" in text for text in (claim, screen))


def test_what_relative_pd_depends_on_most_is_what_the_page_says():
    """Training progress, then the architecture; the activation nothing beyond them."""
    shares = explained(rows(answer_page.pooled_studies()), resamples=1)
    alone, beyond = ({name: found[k][0] for name, found in shares.items()} for k in (0, 1))
    assert max(alone, key=alone.get) == "validation loss" and max(beyond, key=beyond.get) == "architecture"
    assert beyond["activation"] < 0.01


def test_what_tuned_rates_do_is_as_readme_says():
    cells = answer_page.cells_of("primary", "secondary")
    found = [percent(c.comparison.difference)[0] for c in answer_page.found_at(cells, named=answer_page.OWN_RATES[:3])]
    assert f"lower by {-max(found):.1f} to {-min(found):.1f}% at 2.05 nats (n = 12)" in " ".join(README.split())


def test_what_the_learning_rate_does_is_what_the_studies_show():
    cells = answer_page.cells_of("primary", "secondary", "rate_5e-4", "rate_2e-3")
    page, screen, setting = (" ".join(text.split()) for text in (ANSWER, README, SETTING))

    def found(*named, common=answer_page.COMMON):
        (contrast,) = answer_page.found_at(cells, common=common, named=(named,))
        return contrast.comparison

    mean, low, high = percent(found("relu=2e-3", "relu=1e-3").difference)
    centred, a, b = percent(found("smelu_1_centred=2e-3", "smelu_1_centred=1e-3").difference)
    assert (
        f"by {mean:.1f}% [{low:.1f}, {high:.1f}] with ReLU and by {centred:.1f}% [{a:.1f}, {b:.1f}] with centred"
        in page
    )
    assert f"by {mean:.1f}% with ReLU and by {centred:.1f}% with centred" in screen
    assert f"its relative PD by {mean:.1f}%" in setting
    end = found("relu=2e-3", "relu=1e-3", common=None)
    assert f"({in_percent(end.difference)}, {end.verdict}; exploratory)" in page
    assert f"centred SmeLU is {in_percent(found('smelu_1_centred=2e-3', 'relu=2e-3').difference)} (n = 6)" in page
    half, low, high = percent(found("relu=5e-4", "relu=1e-3").difference)
    assert f"halving it lowers ReLU's by {-half:.1f}% [{-high:.1f}, {-low:.1f}]" in page
    assert found("smelu_1_centred=5e-4", "relu=5e-4").verdict == NOT_REACHED


def test_where_full_size_models_overfit_is_what_the_page_says():
    lowest = {"relu": [], "others": []}
    for name in ("relu", "swish", "smelu_1_centred"):
        for trial in result("full_size", f"charlm_{name}")["trials"]:
            point = min(trial["history"], key=lambda point: point["val_loss"])
            lowest["relu" if name == "relu" else "others"].append((point["val_loss"], point["step"]))
    text = " ".join(ANSWER.split())
    relu, others = (np.array(lowest[key]) for key in ("relu", "others"))
    steps = [f"{lows[:, 1].min():,.0f} to {lows[:, 1].max():,.0f} steps" for lows in (relu, others)]
    assert {f"{loss:.2f}" for loss in relu[:, 0]} == {
        "1.50",
        "1.51",
    } and f"(1.50 to 1.51 nats after {steps[0]})" in text
    assert {f"{loss:.2f}" for loss in others[:, 0]} == {"1.49", "1.50"} and f"1.49 to 1.50 after {steps[1]}" in text
    summary = result("full_size", "charlm_relu")["summary"]
    assert f"{summary['val_loss']['mean']:.3f} nats" in text and f"loss of {summary['train_loss']['mean']:.2f}" in text


def test_what_the_replication_decides_is_what_the_page_says():
    import analyze_results

    cells = {cell.activation: cell for cell in analyze_results.read_study(REFERENCE / "replication").cells}
    text = " ".join(SETTING.split())
    names = ("val_loss", "relative_pd", "top1_disagreement", "js_divergence")
    others = [name for name in cells if name != "relu"]

    def judged(cells):
        margins = [margin_of(name, cells["relu"], Margins()) for name in names for _ in others]
        found = [compare_cells(cells[other], cells["relu"], name) for name in names for other in others]
        keys = [(name, other) for name in names for other in others]
        return dict(zip(keys, verdicts(found, margins)))

    found = judged(cells)
    counts = Counter(comparison.verdict for comparison in found.values())
    assert (
        f"{counts['different']} are different, {counts['equivalent']} equivalent, {counts['inconclusive']} inconc"
        in text
    )
    assert outlying_runs_of_pairs(matrix(cells["smelu_1"], "relative_pd")) == [6]  # seed 5007
    rest = judged({name: without(cell, [7]) for name, cell in cells.items()})
    for table, name, activation in (
        (found, "top1_disagreement", "smelu_05"),
        (found, "relative_pd", "smelu_1"),
        (rest, "relative_pd", "smelu_1"),
    ):
        d = results_in_percent(table[name, activation], cells["relu"], name)
        assert f"{d.mean:+.1f}% [{d.low:+.1f}, {d.high:+.1f}]" in text


def test_the_referees_other_numbers_are_as_the_page_says(primary):
    """Seeds left out, bandwidths, equal steps, SmeLU against ReLU, and the cooldown."""
    page, at = " ".join(ANSWER.split()), answer_page.COMMON
    equivalent = []
    for seed in sorted({t["seed"] for cell in primary for t in cell.trials.values()}):
        rest = [without(c, [k for k, t in c.trials.items() if t["seed"] == seed]) for c in primary]
        if {c.comparison.verdict for c in answer_page.found_at(rest)[:3]} == {"equivalent"}:
            equivalent.append(seed)
    assert len(equivalent) == 20
    for bandwidth in (0.15, 0.2):
        found = answer_page.found_at(primary, common=CommonLoss(2.05, bandwidth, 800))
        assert {c.comparison.verdict for c in found[:3]} == {"equivalent"}
    for found in answer_page.found_at(primary, named=(("smelu_1", "relu"), ("swish", "smelu_1_centred"))):
        assert in_percent(found.comparison.difference) in page

    def at_step(cell, step, numbers=None):
        return pair_values(cell, lambda p: next(h["relative_pd"] for h in p["history"] if h["step"] == step), numbers)

    for name, steps in {"relu": 440, "gelu": 550, "swish": 680, "smelu_1_centred": 660}.items():
        assert abs(reached(next(cell for cell in primary if cell.activation == name), at.loss) - steps) < 10
    falls = []
    for name in {cell.activation for cell in primary}:
        groups = [cell for cell in primary if cell.activation == name]
        means = [
            np.average([np.nanmean(at_step(g, k)) for g in groups], weights=[len(g.trials) for g in groups])
            for k in (800, 1000)
        ]
        falls.append(1 - means[1] / means[0])
    assert f"falls by {100 * min(falls):.0f} to {100 * max(falls):.0f}% with every" in page


def reached(cell, loss) -> float:
    """The step at which an activation's mean validation loss on the curve windows falls to a loss, interpolated."""
    steps, values = trial_curves(list(cell.trials.values()), "val_loss")
    means = values.mean(axis=0)
    k = int(np.argmax(means < loss))
    return float(np.interp(-loss, -means[k - 1 : k + 1], steps[k - 1 : k + 1]))


def test_what_bfloat16_changes_is_as_the_page_on_performance_says():
    (float32,) = (cell for cell in answer_page.cells_of("primary") if cell.activation == "relu")
    (bfloat16,) = answer_page.cells_of("bfloat16")
    float32 = without(float32, range(6, 13))
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    for name, margin in (("val_loss", 0.01), ("relative_pd", None), ("top1_disagreement", None)):
        margin = margin or 0.05 * estimate(float32, name).mean
        (found,) = verdicts([compare_cells(bfloat16, float32, name)], [margin])
        d = found.difference
        assert found.verdict == "equivalent"
        assert f"{d.mean:+.4f} [{d.low:+.4f}, {d.high:+.4f}] | {found.equivalence_p:.2g} |" in page


def test_how_relative_pd_turns_is_what_the_longer_study_shows():
    import analyze_results
    from analysis import curves, words
    from analysis.results import compare_cells, in_percent

    cells = {cell.activation: cell for cell in analyze_results.read_study(REFERENCE / "longer").cells}
    course = words.course(curves.turns(curves.along_training([cells["relu"]], "relative_pd")), 3)
    text = " ".join(SETTING.split())
    assert f"relative PD {course}" in text
    smelu, relu = cells["smelu_1"], cells["relu"]
    less = in_percent(compare_cells(smelu, relu, "relative_pd"), relu, "relative_pd")
    assert f"more reproducible, by {-less.mean:.1f}% [{-less.high:.1f}, {-less.low:.1f}]" in text


def test_the_table_of_the_published_protocol_is_that_of_its_pair_and_of_the_ten_trials():
    claims = json.loads((ROOT / "claims/claims.json").read_text(encoding="utf-8"))
    rows = table("published")
    assert [row[0] for row in rows] == list(labels())
    for label, reported, *cells in rows:
        name = labels()[label]
        published, matched = (result(study, f"charlm_{name}") for study in ("published", "matched"))
        values = [
            published["published_pairs"][0]["relative_pd"],
            published["pairs"][0]["relative_pd_last_position"],
            published["pairs"][0]["relative_pd"],
        ]
        assert cells == [*(f"{value:.4f}" for value in values), interval(matched["summary"]["relative_pd"], 4)]
        assert float(reported) == claims["tables"]["relative_pd"][name]


def test_the_table_of_architectures_is_that_of_its_study():
    import analyze_results
    from analysis.results import Margins, activation_sensitivity

    study = analyze_results.read_study(REFERENCE / "architectures")
    rows = table("architectures")
    assert [row[0] for row in rows] == [cells[0].architecture_label for cells in study.architectures.values()]
    for (_, parameters, *cells), members in zip(rows, study.architectures.values()):
        assert parameters == f"{members[0].result['n_parameters']:,}"
        assert {len(cell.trials) for cell in members} == {5}
        found = activation_sensitivity(members, Margins())
        expected = []
        for name in ("val_loss", "relative_pd"):
            spread = found[name].between_sd
            expected.append(f"{spread.mean:.4f} [{spread.low:.4f}, {spread.high:.4f}]")
            expected += [f"{found[name].equal_means_p:.2g}", found[name].verdict]
        assert cells == expected


def test_the_table_of_sources_is_that_of_its_studies():
    import analyze_results
    from analysis.results import compare_cells, share_of

    def load(study):
        cells = analyze_results.read_study(REFERENCE / study).architectures["charlm"]
        return next(cell for cell in cells if cell.activation == "relu")

    studies = {
        "all together": "matched",
        "initial weights": "vary_init",
        "order of the data": "vary_data",
        "dropout": "vary_dropout",
        "one bit of one weight": "vary_bit",
    }
    rows = table("sources")
    assert [row[0] for row in rows] == list(studies)
    matched, *others = [load(study) for study in studies.values()]
    for (source, n, pd, share, from_all, disagreement), other in zip(rows, [None, *others]):
        summary = result(studies[source], "charlm_relu")["summary"]
        assert [pd, disagreement] == [interval(summary[name], 4) for name in ("relative_pd", "top1_disagreement")]
        assert int(n) == summary["relative_pd"]["n"]
        if other:
            e = compare_cells(other, matched, "relative_pd").difference
            assert from_all == f"{e.mean:+.4f} [{e.low:+.4f}, {e.high:+.4f}]"
            e = share_of(other, matched, "relative_pd")
            assert share == f"{e.mean:.1f} [{e.low:.1f}, {e.high:.1f}]"


def test_the_table_of_counts_is_that_of_the_corpus(shakespeare):
    from tasks.ngrams import baselines

    _, following = baselines(shakespeare, 128)
    text = " ".join(SETTING.split())
    assert f"has a validation loss of {following.loss:.3f} nats and {following.accuracy:.2%} accuracy" in text


def test_what_the_two_smelus_do_to_sensitivity_is_what_the_study_shows():
    """Without them three architectures are insensitive in loss, and three still sensitive."""
    import analyze_results
    from analysis.results import Margins, activation_sensitivity

    verdicts = {"insensitive": [], "sensitive": []}
    for cells in analyze_results.read_study(REFERENCE / "architectures").architectures.values():
        rest = [cell for cell in cells if not cell.activation.startswith("smelu")]
        verdicts[activation_sensitivity(rest, Margins())["val_loss"].verdict].append(cells[0].architecture_label)
    (a, b, c), (d, e, f) = verdicts["insensitive"], verdicts["sensitive"]
    text = " ".join(SETTING.split())
    assert f"{a}, {b} and {c} are insensitive in loss, and {d}, {e} and {f} sensitive" in text


def test_how_often_the_activation_matters_is_what_the_ground_truth_says():
    from sensitivity import truth

    q = truth.table(truth.load(), "loss").q
    assert f"within the range of the {len(q)} cases" in " ".join(README.split())
    assert f"mattered in {q.mean():.0%} of them" in " ".join(README.split())


def test_the_audits_summary_is_that_of_its_document():
    document = (ROOT / "docs" / "audit.md").read_text(encoding="utf-8")
    counts = re.search(r"(\d+) checkable claims: (.*)\.\n", document)
    ours = re.search(r"^(\d+) claims: (.*)\.$", README, re.MULTILINE)
    figures = [re.findall(r"\d+", found.group(0)) for found in (counts, ours)]
    assert figures[0] == figures[1]


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\(((?:docs|results)/[\w./-]+)\)", README))))
def test_every_file_that_the_readme_links_to_ships(path):
    assert (ROOT / path).is_file()


def test_the_difference_at_the_last_three_points_is_what_the_page_says():
    import analyze_results
    from analysis import curves

    cells = {cell.activation: cell for cell in analyze_results.read_study(REFERENCE / "longer").cells}
    smelu, relu = (
        sum(value for step, value in curves.along_training([cells[name]], "relative_pd") if step >= 400)
        for name in ("smelu_1", "relu")
    )
    assert f"(steps 400, 450, 500) the difference is {1 - smelu / relu:.1%}" in SETTING
