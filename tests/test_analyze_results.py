"""analyze_results.py from a study's folder to the report: what it says, what it draws, and how it takes bad input."""

import base64
import html.parser
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from made_results import make_result
from studies import TINY, run

import activations
import analyze_results
from analysis.labels import activation_label
from analysis.results import Cell, Margins, Study
from common import scripts, storage
from common.errors import UserError
from figures import drawing
from report import figures
from study.experiment import summarize
from tasks.corpus import load_corpus, yardsticks

REFERENCE = Path(__file__).resolve().parent.parent / "results" / "reference"
REPORT = ("smelu_05", "smelu_1", "relu", "gelu", "swish")
KINDS = ("training_curves", "reproducibility", "summary")
SECTIONS = (
    *("The answer", "Every activation against ReLU", "What was run"),
    *("3.1 Overview", "3.2 Reproducibility", "3.3 Accuracy", "3.4 Every trial", "3.5 Training dynamics"),
    *("4.2 Accuracy against reproducibility", "4.3 GELU as the compromise", "4.4 Effect of SmeLU's beta"),
    *(
        "4.5 Variance of the loss",
        "How much have the models learnt?",
        "Trained less, or more reproducible?",
        "Every measure of reproducibility",
    ),
    *("Appendix B: differing predictions", "Appendix C: computing time", "Methods"),
)


# --- studies to analyse ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_corpus_file):
    """The folder of a finished tiny study: five activations, three trials each, with checkpoints."""
    folder = tmp_path_factory.mktemp("made")
    shutil.copy(tiny_corpus_file, folder / "tiny.txt")
    done = run(
        "run_all_experiments.py", *TINY, "--corpus", "tiny.txt", "--trials", 3, "--activations", "report",
        folder=folder,
    )  # fmt: skip
    assert done.status == 0, done.err
    return folder


@pytest.fixture
def folder(made, tmp_path, monkeypatch):
    """A copy of the tiny study's folder, and the folder that the test works in."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(drawing, "PROCESSES", 1)
    return tmp_path


@pytest.fixture
def plans(monkeypatch, tmp_path):
    """The figures that would be drawn, without the time to draw them."""
    found, picture = [], tmp_path / "figure.png"
    picture.write_bytes(b"a picture")

    def record(wanted):
        found.extend(wanted)
        return [picture] * len(wanted)

    monkeypatch.setattr(figures, "_drawn", record)
    return found


@pytest.fixture
def few(folder):
    """The same study with two of its activations, ReLU and GELU."""
    for path in (folder / "results").glob("charlm_s*"):
        path.unlink()
    (folder / "results" / storage.SUMMARY_FILE).unlink()
    return folder


@pytest.fixture
def analyze(capsys):
    """analyze(...) -> (exit status, what was printed, what was complained of), in this process."""

    def call(*arguments):
        with pytest.raises(SystemExit) as stop:
            scripts.run(analyze_results.main, [str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return stop.value.code, printed.out, printed.err

    return call


def change(path, edit):
    """Rewrites a result with what `edit` makes of it, and its summary."""
    result = storage.read_json(path)
    edit(result)
    result["summary"] = summarize(result)
    storage.write_json(path, result)


def keep_trials(results, n):
    """Takes all trials after the n-th out of a study."""

    def edit(result):
        result["trials"] = [trial for trial in result["trials"] if trial["trial"] <= n]
        result["pairs"] = [pair for pair in result["pairs"] if pair["trial_b"] <= n]

    for path in results.glob("charlm_*.json"):
        change(path, edit)


def lose_trial(result, status="diverged"):
    """Trial 2 of a result diverged."""
    result["trials"][1] |= {"status": status, "val_loss": None, "train_loss": None}
    result["trials"][1] |= {"val_accuracy": None, "train_accuracy": None, "reason": "the loss was infinite at step 3"}
    result["pairs"] = [pair for pair in result["pairs"] if 2 not in (pair["trial_a"], pair["trial_b"])]


# --- a whole study --------------------------------------------------------------------------------------------------


class Page(html.parser.HTMLParser):
    """What a browser would load, the ids, and the texts of the headings of an HTML file."""

    def __init__(self, text):
        super().__init__()
        self.resources, self.images, self.tags, self.ids, self.links = [], [], set(), set(), []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.add(tag)
        self.ids.add(attributes.get("id"))
        if tag == "img":
            self.images.append(attributes)
        if tag == "a":
            self.links.append(attributes["href"])
        elif "href" in attributes or "src" in attributes:
            self.resources.append(attributes.get("href") or attributes["src"])


@pytest.mark.slow
def test_one_command_makes_the_report_with_all_its_figures(folder, run_script):
    done = run_script("analyze_results.py", cwd=folder)
    assert done.returncode == 0, done.stderr
    for title in (*SECTIONS, "Where models disagree", "Appendix A: every activation in figures"):
        assert f"\n{title}\n{'-' * len(title)}\n" in done.stdout
    markdown, page = (folder / "results" / name for name in analyze_results.REPORT_FILES)

    drawn = {path.name for path in (folder / "plots").iterdir()}
    assert {f"charlm_{name}_cpu_{kind}.png" for name in REPORT for kind in KINDS} <= drawn
    assert {f"charlm_{name}_cpu_passage.png" for name in REPORT} <= drawn
    across = ("all_validation_curves", "pareto", "forest")
    assert {f"charlm_cpu_{kind}.png" for kind in (*across, "pd_at_equal_loss")} <= drawn
    linked = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", markdown.read_text())
    assert sorted((folder / "results" / link).resolve() for link in linked) == sorted((folder / "plots").iterdir())

    found = Page(page.read_text())
    assert len(found.images) == len(drawn) and found.resources == [image["src"] for image in found.images]
    embedded = [base64.b64decode(src.removeprefix("data:image/png;base64,")) for src in found.resources]
    assert sorted(embedded) == sorted(path.read_bytes() for path in (folder / "plots").iterdir())
    assert all("n = 3" in image["alt"] for image in found.images)
    assert not found.tags & {"script", "link", "iframe"} and "url(" not in page.read_text()
    assert found.links and all(link[1:] in found.ids for link in found.links)  # the contents lead somewhere


@pytest.mark.parametrize("name", ["matched", "published"])
def test_every_section_of_the_report_is_there_for_the_reference_studies(name, tmp_path, analyze):
    study = shutil.copytree(REFERENCE / name, tmp_path / "results" / name)
    status, out, _ = analyze(study, "--no-figures")
    assert status == 0
    titles = [*SECTIONS, *(["From the report's relative PD to a matched one"] if name == "published" else [])]
    for title in titles:
        assert f"\n{title}\n" in out
        assert f"\n## {title}\n" in (study / "REPORT.md").read_text()
    assert "corpus shakespeare" in " ".join(out.split()) and f"{name} protocol" in " ".join(out.split())
    assert not list(tmp_path.rglob("*.png"))


def test_the_report_of_the_reference_study_says_what_its_files_say(tmp_path, analyze):
    study = shutil.copytree(REFERENCE / "matched", tmp_path / "matched")
    _, out, _ = analyze(study, "--no-figures")
    for name in REPORT:
        result = storage.read_json(study / f"charlm_{name}.json")
        mean = np.mean([pair["relative_pd"] for pair in result["pairs"]])
        low, high = result["summary"]["relative_pd"]["ci95"]
        row = rf"{re.escape(activation_label(name))} +10 +{mean:.4f} \[{low:.4f}, {high:.4f}\]"
        assert re.search(rf"\d +{row}", out), row


# --- few trials, missing and lost ones ------------------------------------------------------------------------------


def test_vector_files_are_drawn_beside_the_figures(few, analyze):
    status, _, _ = analyze("--format", "pdf")
    names = {path.stem for path in (few / "plots").glob("*.png")}
    assert status == 0 and names and names == {path.stem for path in (few / "plots").glob("*.pdf")}


def test_one_trial_is_analysed_and_said_to_be_too_few(few, analyze):
    keep_trials(few / "results", 1)
    status, out, err = analyze()
    assert status == 0 and "Traceback" not in err
    assert "One trial is not enough: reproducibility needs at least two trials" in out
    assert "n = 1 trial each" in out and (few / "results" / "report.html").exists()
    expected = {f"charlm_{name}_cpu_{kind}.png" for name in ("relu", "gelu") for kind in KINDS}
    expected |= {"charlm_cpu_forest.png", "charlm_cpu_all_validation_curves.png"}
    assert {path.name for path in (few / "plots").iterdir()} == expected


def test_two_trials_have_means_of_pairs_but_no_intervals(folder, analyze):
    keep_trials(folder / "results", 2)
    status, out, _ = analyze("--no-figures")
    assert status == 0 and "Two trials make one pair" in out
    pair = storage.read_json(folder / "results" / "charlm_relu.json")["pairs"][0]
    assert f"{pair['relative_pd']:.4f} (no interval)" in out


def test_one_activation_has_nothing_to_be_compared_with(few, analyze, plans):
    for path in (few / "results").glob("charlm_gelu*"):
        path.unlink()
    status, out, _ = analyze()
    assert status == 0 and "There is one activation, ReLU, and nothing to compare it with" in out
    assert "A Pareto frontier needs two activations" in out
    kinds = [plan.draw.__name__ for plan in plans]
    assert set(kinds) >= set(KINDS) and not set(kinds) & {"forest", "pareto", "pd_at_equal_loss"}


def test_models_that_tables_of_counts_equal_are_said_to_have_learnt_little(folder, analyze):
    """Six steps of training teach less than the frequencies of the characters; a loss of 0 would be more than both."""
    frequencies = "Nothing is learnt yet that the frequencies of the characters do not tell"
    following = "a table of which character follows which, counted on the training split, has a validation loss of"

    def set_losses(loss):
        def change_losses(result):
            for record in result["trials"]:
                record["val_loss"] = loss + record["trial"] / 1e4

        for path in (folder / "results").glob("charlm_*.json"):
            change(path, change_losses)
        _, out, _ = analyze("--no-figures")
        return " ".join(out.split())

    corpus = load_corpus(str(folder / "tiny.txt"))
    single, double = (stick.loss for stick in yardsticks(corpus, 8))
    assert double < single
    out = set_losses(single)
    assert frequencies in out and following not in out
    assert f"Frequencies of the characters - {single:.4f}" in out
    out = set_losses(double)
    assert frequencies not in out and f"{following} {double:.3f} nats, lower than the models of all activations" in out
    out = set_losses(double - 0.01)
    assert frequencies not in out and following not in out


def test_without_the_corpus_it_is_said_that_no_table_of_counts_stands_beside_the_models(folder, analyze):
    (folder / "tiny.txt").unlink()
    status, out, _ = analyze("--no-figures")
    text = " ".join(out.split())
    assert status == 0 and "The comparison needs the corpus, and was left out: the result was made on tiny.txt" in text


def test_an_interrupted_study_is_analysed_and_what_is_missing_is_said(folder, analyze):
    def cut(result):
        result["trials"] = result["trials"][:2]
        result["pairs"] = result["pairs"][:1]

    change(folder / "results" / "charlm_gelu.json", cut)
    (folder / "results" / "charlm_swish.json").unlink()
    status, out, _ = analyze("--no-figures")
    assert status == 0
    assert "charlm with swish: no result file yet." in out
    assert "charlm with gelu: 2 of 3 trials; not done: 3." in out
    assert "2 things missing or left out" in out and "n = 2 to 3 trials" in out


def forget_pairs(result):
    """The study was killed before the pairs of this activation were compared."""
    result["pairs"] = []


def test_pairs_that_wait_to_be_compared_are_said_to_wait_and_how_they_come(few, analyze, plans):
    for path in (few / "results").glob("charlm_*.json"):
        change(path, forget_pairs)
    status, out, _ = analyze()
    words = " ".join(out.split())
    assert status == 0 and "charlm with gelu: 3 of 3 pairs not compared yet." in words
    body = out[out.index("3.2 Reproducibility") :]
    for heading in ("3.2 Reproducibility", "Every measure of reproducibility", "Appendix A: every activation"):
        section = " ".join(body[body.index(heading) :][:500].split())
        assert "trials are complete, but their pairs are not compared yet." in section, heading
        assert "the same run_all_experiments.py command goes on and compares them" in section, heading
    assert "takes two complete trials" not in words and "No pair" not in words
    assert "those that have both: none" in words


def test_pairs_of_one_activation_that_wait_leave_the_other_one_no_loser(few, analyze):
    change(few / "results" / "charlm_gelu.json", forget_pairs)
    status, out, _ = analyze("--no-figures")
    assert status == 0 and "those that have both: ReLU." in " ".join(out.split())
    assert "On the frontier" not in out


def test_an_activation_is_not_called_the_only_one_while_another_is_unfinished(few, analyze):
    def begin(result):
        result["trials"], result["pairs"] = [], []

    change(few / "results" / "charlm_gelu.json", begin)
    _, out, _ = analyze("--no-figures")
    words = " ".join(out.split())
    assert "Only ReLU has complete trials so far; still to come: GELU" in words and "nothing to compare" not in words


def test_trials_that_diverged_are_counted_and_left_out(few, analyze):
    change(few / "results" / "charlm_gelu.json", lose_trial)
    status, out, _ = analyze()
    assert status == 0
    expected = "charlm with gelu: trial 2 diverged (the loss was infinite at step 3); left out of all means and pairs."
    assert expected in " ".join(out.split())
    assert "GELU, n = 2 complete trials" in out and re.search(r"^2 \(diverged\) +43 +- +-", out, re.MULTILINE)
    drawn = {path.name for path in (few / "plots").iterdir()}
    assert {"charlm_gelu_cpu_training_curves.png", "charlm_cpu_forest.png", "charlm_cpu_pd_at_equal_loss.png"} <= drawn


def test_a_study_whose_trials_all_diverged_says_so(folder, analyze):
    keep_trials(folder / "results", 1)

    def lose(result):
        result["trials"][0]["status"] = "diverged"

    for path in (folder / "results").glob("charlm_*.json"):
        change(path, lose)
    status, out, _ = analyze()
    assert status == 0 and "No trial is complete" in out and not (folder / "plots").exists()


# --- bad input ------------------------------------------------------------------------------------------------------


def test_a_damaged_result_is_named_and_left_as_it_is(folder, analyze):
    path = folder / "results" / "charlm_gelu.json"
    damage = path.read_bytes()[:-100]
    path.write_bytes(damage)
    status, _, err = analyze("--no-figures")
    assert status == 1 and err.count("\n") == 1 and str(path.relative_to(folder)) in err
    assert path.read_bytes() == damage and not (folder / "results" / "REPORT.md").exists()


def test_a_result_of_another_study_is_refused_by_the_field(folder, analyze):
    def longer(result):
        result["identity"]["config"]["max_iters"] = 7

    change(folder / "results" / "charlm_gelu.json", longer)
    status, _, err = analyze("--no-figures")
    assert status == 1 and "charlm_gelu.json belongs to another study" in err and "config.max_iters: 6 against 7" in err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere"], "nowhere holds no study"),
        (["--margin-loss", "0"], "--margin-loss must be positive"),
        (["--margin-pairs", "nan"], "--margin-pairs must be positive"),
        (["--recompute", "--checkpoints-dir", "elsewhere"], "--recompute needs the checkpoint elsewhere/charlm_"),
        (["--compare", "nowhere"], "nowhere holds no study"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_sentence_and_status_2(arguments, sentence, folder, analyze):
    status, out, err = analyze(*arguments)
    assert status == 2 and sentence in err and err.count("\n") == 1 and out == ""


def test_studies_of_different_corpora_are_not_compared(folder, analyze):
    other = shutil.copytree(folder / "results", folder / "other")
    for path in [other / "study.json", *other.glob("charlm_*.json")]:
        content = storage.read_json(path)
        content["identity"]["corpus_sha256"] = "f" * 64
        storage.write_json(path, content)
    status, _, err = analyze("results", "--compare", "other")
    assert status == 2 and "results and other were made on different data" in err and err.count("\n") == 1


def test_studies_of_one_identity_are_not_compared(folder, analyze):
    shutil.copytree(folder / "results", folder / "other")
    status, _, err = analyze("results", "--compare", "other")
    assert status == 2 and "are studies of the same identity" in err


# --- recomputing, comparing -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_recomputing_finds_the_same_bits_and_notices_a_changed_value(few, run_script):
    done = run_script("analyze_results.py", "--recompute", "--no-figures", cwd=few)
    assert done.returncode == 0 and done.stdout.count(": identical, 3 pairs") == 2, done.stdout + done.stderr

    def tamper(result):
        result["pairs"][1]["relative_pd"] += 1e-9

    change(few / "results" / "charlm_relu.json", tamper)
    done = run_script("analyze_results.py", "--recompute", "--no-figures", cwd=few)
    assert done.returncode == 1
    assert "recomputed charlm with relu: DIFFERENT, first pair (1, 3) relative_pd" in done.stdout


def test_a_damaged_checkpoint_costs_the_figure_of_a_passage_and_nothing_else(few, analyze):
    (few / "checkpoints" / "charlm_relu" / "trial_1.pt").write_bytes(b"damaged")
    status, out, _ = analyze()
    assert status == 0
    assert "was left out: the checkpoint checkpoints/charlm_relu/trial_1.pt is damaged" in " ".join(out.split())


def test_sources_of_randomness_stand_beside_all_of_them(few, analyze, plans):
    fixed = shutil.copytree(few / "results", few / "vary_data")
    for path in [fixed / "study.json", *fixed.glob("charlm_*.json")]:
        content = storage.read_json(path)
        content["identity"]["vary"] = ["data"]
        for pair in content.get("pairs", []):
            pair["relative_pd"] /= 2
        storage.write_json(path, content)
    status, out, _ = analyze("results", "--compare", "vary_data")
    assert status == 0 and "order of the data alone 50 [50, 50] % (n = 3)" in " ".join(out.split())
    (labels,) = (plan.arguments[2] for plan in plans if plan.draw.__name__ == "sources")
    assert labels == ["all together"] * 2 + ["order of the data"] * 2


# --- which figures --------------------------------------------------------------------------------------------------


def study_of(*results):
    config = {**results[0]["identity"]["config"], "dtype": "float32", "threads_per_trial": 1}
    identity = {**results[0]["identity"], "corpus_sha256": "0" * 64, "config": config}
    return Study("made", identity, [Cell(result) for result in results], [])


def add_figures(study, margins=Margins()):  # noqa: B008 - it is frozen
    from report.document import Document, Section

    keys = ("comparisons", "trade_off", "dynamics", "training_path", "measures", "distributions")
    names = [cells[0].architecture_label for cells in study.architectures.values()]
    parts = names if len(names) > 1 else [""]
    sections = [Section("architectures", "")] + [Section(key, key, part=part) for part in parts for key in keys]

    def passage_of(cells):
        raise UserError("there is no checkpoint")

    return figures.add_figures(Document("", "", sections), study, [], margins, Path("p"), passage_of, {})


def test_the_margins_that_were_asked_for_reach_the_figure(plans):
    add_figures(study_of(make_result("relu", 4), make_result("gelu", 4)), Margins(0.5, 0.25))
    (margins,) = (plan.arguments[2] for plan in plans if plan.draw.__name__ == "forest")
    assert margins == Margins(0.5, 0.25)


def test_many_activations_have_one_figure_each_in_the_appendix(plans):
    few = [make_result(name, 3) for name in activations.BUILT_IN[: figures.MOST_CELLS_IN_FULL]]
    add_figures(study_of(*few))
    assert sum(plan.key == "figures" for plan in plans) == 3 * len(few)
    plans.clear()
    many = [make_result(name, 3) for name in activations.BUILT_IN[: figures.MOST_CELLS_IN_FULL + 1]]
    add_figures(study_of(*many))
    assert [plan.draw.__name__ for plan in plans if plan.key == "figures"] == ["summary"] * len(many)


def test_every_figure_of_several_architectures_stands_in_the_part_of_its_own(plans):
    results = [{**make_result(name, 3), "architecture": a} for a in ("charlm", "mlp") for name in ("relu", "gelu")]
    document = add_figures(study_of(*results))
    assert {plan.part for plan in plans} == {"", "CharLM", "MLP"}
    heat_maps = [plan for plan in plans if plan.draw.__name__ == "architecture_heatmap"]
    assert len(heat_maps) == 2 and heat_maps == [plan for plan in plans if not plan.part]
    shown = sum(len(section.figures) for section in document.sections)
    assert shown == len(plans)
    for plan in plans:
        about = plan.arguments[0] if isinstance(plan.arguments[0], list) else [plan.arguments[0]]
        labels = {{"charlm": "CharLM", "mlp": "MLP"}[result["architecture"]] for result in about}
        assert labels == {plan.part} or not plan.part


def test_without_checkpoints_the_passage_is_left_out_with_the_reason(plans):
    document = add_figures(study_of(make_result("relu", 3), make_result("gelu", 3)))
    (section,) = (section for section in document.sections if section.key == "passage")
    assert "there is no checkpoint" in section.paragraphs[0] and section.figures == []


def test_every_caption_says_n_and_what_its_bands_are(plans):
    add_figures(study_of(make_result("relu", 3), make_result("gelu", 3)))
    assert plans and all("n = 3 trials" in plan.caption for plan in plans)
    for plan in plans:
        if plan.draw.__name__ != "training_curves":  # which has no band
            assert "95 %" in plan.caption or "95%" in plan.caption


def test_activations_are_compared_at_the_loss_that_was_named(tmp_path, analyze):
    """The longer study: its curves have eleven points, of which five and more are around 2.5 nats."""
    study = shutil.copytree(REFERENCE / "longer", tmp_path / "longer")
    status, out, _ = analyze(study, "--no-figures", "--at-loss", "2.5")
    text = " ".join(out.split())
    assert status == 0 and "Relative PD at 2.5 nats: SmeLU β=1 inconclusive" in text
    _, out, _ = analyze(study, "--no-figures", "--at-loss", "2.5", "--last-step", "150")
    assert "Relative PD at 2.5 nats: SmeLU β=1 loss not reached" in " ".join(out.split())
    _, out, _ = analyze(study, "--no-figures", "--at-loss", "3.5")
    assert "Relative PD at 3.5 nats: SmeLU β=1 curve too coarse" in " ".join(out.split())
    _, out, _ = analyze(study, "--no-figures")
    assert "no loss was fixed beforehand" in " ".join(out.split())


@pytest.mark.parametrize("options", [("--at-loss", "0"), ("--last-step", "100")])
def test_options_of_the_comparison_at_equal_loss_that_make_no_sense_are_refused(options, analyze):
    status, _, error = analyze(REFERENCE / "longer", "--no-figures", *options)
    assert status == 2 and options[0] in error


def test_contrasts_are_a_table_for_each_endpoint_and_a_figure(tmp_path, analyze):
    study = shutil.copytree(REFERENCE / "longer", tmp_path / "longer")
    status, out, _ = analyze(study, "--contrasts", "smelu_1:relu", "--at-loss", "2.45")
    assert status == 0 and "At 2.45 nats" in out and "At the end of training" in out
    assert "| SmeLU β=1 / ReLU | 5   | -17.9% [-20.3, -15.4]" in out
    (figure,) = tmp_path.rglob("charlm_cpu_contrasts.png")
    assert figure.stat().st_size > 10_000


@pytest.mark.parametrize("contrast", ["relu", "relu:relu", "gelu:", "a:b:c", "gelu:relu"])
def test_a_contrast_that_the_study_cannot_answer_is_refused(contrast, analyze):
    status, _, error = analyze(REFERENCE / "longer", "--no-figures", "--contrasts", contrast)
    assert status == 2 and ("names two activations" in error or "no results of 'gelu'" in error)


def test_an_outlying_run_has_its_section(tmp_path, analyze):
    study = shutil.copytree(REFERENCE / "matched", tmp_path / "matched")
    _, out, _ = analyze(study, "--no-figures")
    assert "Flagged runs, and the means with and without them" in " ".join(out.split())


def test_the_report_is_written_though_the_reader_of_the_output_has_gone(few, monkeypatch):
    """As of `| head -3`."""
    reading, writing = os.pipe()
    os.close(reading)
    monkeypatch.setattr("sys.stdout", os.fdopen(writing, "w"))
    with pytest.raises(SystemExit) as stop:
        scripts.run(analyze_results.main, ["--no-figures"])
    assert stop.value.code == 0
    assert all((few / "results" / name).stat().st_size > 1000 for name in analyze_results.REPORT_FILES)
