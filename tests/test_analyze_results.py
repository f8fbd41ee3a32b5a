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
from common import json_files, scripts, storage
from common.errors import UserError
from figures import drawing
from report import contents, document
from report.details import MOST_IN_FULL
from report.document import Figure, render_markdown
from study.summaries import summarize
from tasks.corpus import load_corpus
from tasks.ngrams import baselines

REFERENCE = Path(__file__).resolve().parent.parent / "results" / "reference"
REPORT = ("smelu_05", "smelu_1", "relu", "gelu", "swish")
KINDS = ("training_curves", "reproducibility", "summary")
BRIEF = ("The answer", "Activations compared with ReLU")
SECTIONS = (
    *(*BRIEF, "Along training, and at equal loss", "Loss against reproducibility", "All measures"),
    *("Smooth, monotone, gated: groups of activations", "Spread of the loss over seeds", "Outlying runs"),
    *("Would another text change this?", "Every trial", "Each activation in figures", "What was run", "Methods"),
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

    def record(wanted, folder):
        found.extend(wanted)
        return dict.fromkeys(wanted, picture)

    monkeypatch.setattr(document, "_draw", record)
    return found


@pytest.fixture
def few(folder):
    """The same study with two of its activations, ReLU and GELU."""
    for path in (folder / "results").glob("charlm_s*.json"):
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


def report_of(folder):
    """The whole report, in one line: the terminal shows its first sections only."""
    return " ".join((folder / "REPORT.md").read_text(encoding="utf-8").split())


def change(path, edit):
    """Rewrites a result with what `edit` makes of it, and its summary."""
    result = json_files.read_json(path)
    edit(result)
    result["summary"] = summarize(result)
    json_files.write_json(path, result)


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
    for title in BRIEF:
        assert f"\n{title}\n{'-' * len(title)}\n" in done.stdout
    assert done.stdout.rstrip().endswith("All sections: results/REPORT.md and results/report.html; 24 figures in plots")
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
    markdown = (study / "REPORT.md").read_text()
    titles = re.findall("^## (.*)$", markdown, re.MULTILINE)
    few = ("Outlying runs", "Would another text change this?")
    assert titles == [title for title in SECTIONS if name == "matched" or title not in few or title in titles]
    assert "corpus shakespeare" in " ".join(out.split()) and f"{name} protocol" in " ".join(out.split())
    assert not list(tmp_path.rglob("*.png"))


def test_the_answer_fits_a_terminal_and_says_where_the_rest_is(tmp_path, analyze):
    study = shutil.copytree(REFERENCE / "matched", tmp_path / "matched")
    _, out, _ = analyze(study, "--no-figures")
    assert len(out.splitlines()) < 70 and out.rstrip().endswith("report.html")
    answer = out[out.index("The answer") : out.index("Means with 95%")]
    assert 3 <= len(re.findall(r"[.?]\s", answer)) <= 6


def test_the_report_of_the_reference_study_says_what_its_files_say(tmp_path, analyze):
    study = shutil.copytree(REFERENCE / "matched", tmp_path / "matched")
    _, out, _ = analyze(study, "--no-figures")
    for name in REPORT:
        result = json_files.read_json(study / f"charlm_{name}.json")
        mean = np.mean([pair["relative_pd"] for pair in result["pairs"]])
        low, high = result["summary"]["relative_pd"]["ci95"]
        row = rf"{re.escape(activation_label(name))} +10 +2\.6.*{mean:.4f} \[{low:.4f}, {high:.4f}\]"
        assert re.search(row, out), row


# --- few trials, missing and lost ones ------------------------------------------------------------------------------


def test_vector_files_are_drawn_beside_the_figures(few, analyze):
    status, _, _ = analyze("--format", "pdf")
    names = {path.stem for path in (few / "plots").glob("*.png")}
    assert status == 0 and names and names == {path.stem for path in (few / "plots").glob("*.pdf")}


def test_one_trial_is_analysed_and_said_to_be_too_few(few, analyze):
    keep_trials(few / "results", 1)
    status, out, err = analyze()
    assert status == 0 and "Traceback" not in err
    assert "One trial is not enough: disagreement takes two trials, and an interval three." in " ".join(out.split())
    assert "n = 1 trial each" in out and (few / "results" / "report.html").exists()
    expected = {f"charlm_{name}_cpu_{kind}.png" for name in ("relu", "gelu") for kind in KINDS}
    expected |= {"charlm_cpu_forest.png", "charlm_cpu_all_validation_curves.png"}
    assert {path.name for path in (few / "plots").iterdir()} == expected


def test_two_trials_have_means_of_pairs_but_no_intervals(folder, analyze):
    keep_trials(folder / "results", 2)
    status, out, _ = analyze("--no-figures")
    assert status == 0 and "Two trials make one pair" in out and "n = 2 trials each" in out
    pair = json_files.read_json(folder / "results" / "charlm_relu.json")["pairs"][0]
    assert f"{pair['relative_pd']:.4f} (no interval)" in out


def test_one_activation_has_nothing_to_be_compared_with(few, analyze, plans):
    for path in (few / "results").glob("charlm_gelu*.json"):
        path.unlink()
    status, out, _ = analyze()
    assert status == 0 and "There is one activation, ReLU, and nothing to compare it with" in out
    assert "Loss against reproducibility" not in report_of(few / "results")
    kinds = [plan.draw.__name__ for plan in plans]
    assert set(kinds) >= set(KINDS) and not set(kinds) & {"forest", "pareto"}


def test_models_that_a_baseline_equals_are_said_to_be_in_early_training(folder, analyze):
    """Six steps of training teach less than the frequencies of the characters; a loss of 0 would be more than both."""

    def answer_at(loss):
        def change_losses(result):
            for record in result["trials"]:
                record["val_loss"] = loss + record["trial"] / 1e4

        for path in (folder / "results").glob("charlm_*.json"):
            change(path, change_losses)
        _, out, _ = analyze("--no-figures")
        return " ".join(out.split())

    single, double = (baseline.loss for baseline in baselines(load_corpus(str(folder / "tiny.txt")), 8))
    assert double < single
    out = answer_at(single)
    assert "Nothing is learned yet: the unigram baseline has a lower validation loss" in out
    assert f"| Unigram baseline | validation loss {single:.4f} nats" in report_of(folder / "results")
    out = answer_at(double)
    assert "This is early training: the bigram baseline has a lower validation loss" in out
    assert f"({double:.3f} nats) than the models of all activations" in out
    assert "baseline has" not in answer_at(double - 0.01)


def test_without_the_corpus_the_baselines_are_left_out_with_the_reason(folder, analyze):
    (folder / "tiny.txt").unlink()
    status, _, _ = analyze("--no-figures")
    assert status == 0 and "| Baselines | left out: the result was made on tiny.txt" in report_of(folder / "results")


def test_an_interrupted_study_is_analysed_and_what_is_missing_is_said(folder, analyze):
    def cut(result):
        result["trials"] = result["trials"][:2]
        result["pairs"] = result["pairs"][:1]

    change(folder / "results" / "charlm_gelu.json", cut)
    (folder / "results" / "charlm_swish.json").unlink()
    status, out, _ = analyze("--no-figures")
    assert status == 0
    assert "charlm with swish: no result file yet." in report_of(folder / "results")
    assert "charlm with gelu: 2 of 3 trials; not done: 3." in report_of(folder / "results")
    assert "2 things missing or left out" in out and "n = 2 to 3 trials" in out


def forget_pairs(result):
    """The study was killed before the pairs of this activation were compared."""
    result["pairs"] = []


def test_pairs_that_wait_to_be_compared_are_said_to_wait_and_how_they_come(few, analyze, plans):
    for path in (few / "results").glob("charlm_*.json"):
        change(path, forget_pairs)
    assert analyze()[0] == 0
    words = report_of(few / "results")
    assert "charlm with gelu: 3 of 3 pairs not compared yet." in words
    assert "trials are complete, but **their pairs are not compared yet**." in words
    assert "rerun the same `run_all_experiments.py` command to compare them" in words
    assert "takes two complete trials" not in words


def test_pairs_of_one_activation_that_wait_leave_the_other_one_no_loser(few, analyze):
    change(few / "results" / "charlm_gelu.json", forget_pairs)
    status, _, _ = analyze("--no-figures")
    assert status == 0 and "Loss against reproducibility" not in report_of(few / "results")


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
    words = report_of(few / "results")
    assert expected in words and "n = 2 to 3 trials" in out
    assert "| GELU | 2 (diverged) | 43 | - | - |" in re.sub(" +", " ", words)
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
        (["nowhere"], "nowhere contains no study"),
        (["--margin-loss", "0"], "--margin-loss must be positive"),
        (["--margin-pairs", "nan"], "--margin-pairs must be positive"),
        (["--recompute", "--checkpoints-dir", "elsewhere"], "--recompute needs the checkpoint elsewhere/charlm_"),
        (["--compare", "nowhere"], "nowhere contains no study"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_sentence_and_status_2(arguments, sentence, folder, analyze):
    status, out, err = analyze(*arguments)
    assert status == 2 and sentence in err and err.count("\n") == 1 and out == ""


def test_studies_of_different_corpora_are_not_compared(folder, analyze):
    other = shutil.copytree(folder / "results", folder / "other")
    for path in [other / "study.json", *other.glob("charlm_*.json")]:
        content = json_files.read_json(path)
        content["identity"]["corpus_sha256"] = "f" * 64
        json_files.write_json(path, content)
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
    change(few / "results" / "charlm_gelu.json", lambda result: result["trials"][1].update(train_loss=2.5))
    done = run_script("analyze_results.py", "--recompute", "--no-figures", cwd=few)
    assert done.returncode == 1
    assert "recomputed charlm with gelu: DIFFERENT, first trial 2.train_loss: 2.5 against" in done.stdout
    assert "recomputed charlm with relu: DIFFERENT, first pair (1, 3) relative_pd" in done.stdout


def test_a_damaged_checkpoint_costs_the_figure_of_a_passage_and_nothing_else(few, analyze):
    (few / "checkpoints" / "charlm_relu" / "trial_1.pt").write_bytes(b"damaged")
    status, _, _ = analyze()
    assert status == 0
    assert "Without a passage: ReLU (the checkpoint checkpoints/charlm_relu/trial_1.pt is damaged" in report_of(
        few / "results"
    )


def test_sources_of_randomness_stand_beside_all_of_them(few, analyze, plans):
    fixed = shutil.copytree(few / "results", few / "vary_data")
    for path in [fixed / "study.json", *fixed.glob("charlm_*.json")]:
        content = json_files.read_json(path)
        content["identity"]["vary"] = ["data"]
        for pair in content.get("pairs", []):
            pair["relative_pd"] /= 2
        json_files.write_json(path, content)
    status, out, _ = analyze("results", "--compare", "vary_data")
    assert status == 0 and "50.0 (all equal)" in out
    ((labels,),) = (plan.data for plan in plans if plan.draw.__name__ == "sources")
    assert labels == ["all together"] * 2 + ["order of the data"] * 2


# --- which figures --------------------------------------------------------------------------------------------------


def study_of(*results):
    identity = {**results[0]["identity"], "corpus_sha256": "0" * 64}
    return Study("made", identity, [Cell(result) for result in results], [])


def built(*results, **options):
    return contents.build(study_of(*results), **options)


def test_the_margins_that_were_asked_for_reach_the_figure():
    margins = Margins(0.5, 0.25)
    figures = built(make_result("relu", 4), make_result("gelu", 4), margins=margins).figures
    assert [figure.data for figure in figures if figure.draw.__name__ == "forest"] == [(margins,)]


def test_many_activations_have_one_figure_each():
    for n, kinds in ((MOST_IN_FULL, 3), (MOST_IN_FULL + 1, 1)):
        results = [make_result(name, 3) for name in activations.BUILT_IN[:n]]
        (section,) = (s for s in built(*results).sections if s.title == "Each activation in figures")
        assert len(section.all(Figure)) == kinds * n


def test_every_figure_of_several_architectures_stands_in_the_part_of_its_own():
    results = [{**make_result(name, 3), "architecture": a} for a in ("charlm", "mlp") for name in ("relu", "gelu")]
    document = built(*results)
    assert next(section.part for section in document.sections if section.all(Figure)) == ""
    assert {section.part for section in document.sections} == {"", "CharLM", "MLP"}
    for section in document.sections:
        for figure in section.all(Figure):
            about = figure.results if isinstance(figure.results, list) else [figure.results]
            labels = {{"charlm": "CharLM", "mlp": "MLP"}[result["architecture"]] for result in about}
            assert labels == {section.part} or not section.part
    assert len({section.slug for section in document.sections}) == len(document.sections)
    headings = [
        line
        for line in render_markdown(document, Path(), {f: Path("x.png") for f in document.figures}).splitlines()
        if line.startswith("#")
    ]
    assert {"## CharLM", "## MLP", "## Methods"} < set(headings) and all(line.strip("# ") for line in headings)


def test_an_activation_without_checkpoints_has_no_passage_and_the_reason_is_said():
    def passage_of(cell):
        if cell.activation == "relu":
            raise UserError("there is no checkpoint")
        return "a text", 1, np.zeros(6), 3

    document = built(make_result("relu", 3), make_result("gelu", 3), passage_of=passage_of)
    (section,) = (section for section in document.sections if section.title == "Each activation in figures")
    passages = [figure for figure in document.figures if figure.draw.__name__ == "disagreement_passage"]
    assert [figure.results["activation"] for figure in passages] == ["gelu"]
    assert any("ReLU (there is no checkpoint)" in item for item in section.content if isinstance(item, str))


def test_every_caption_says_n_and_what_its_bands_are():
    figures = built(make_result("relu", 3), make_result("gelu", 3)).figures
    assert figures and all("n = 3 trials" in figure.caption for figure in figures)
    for figure in figures:
        if figure.draw.__name__ != "training_curves":  # which has no band
            assert "95%" in figure.caption


def test_a_figure_that_fails_is_named_and_costs_nothing_else(few, analyze, monkeypatch):
    """The text is written before the first figure is begun."""

    def fail(*_):
        raise ValueError("no colour is left")

    fail.__name__ = fail.__qualname__ = "summary"
    monkeypatch.setattr("plot_utils.summary", fail)
    status, out, err = analyze()
    assert status == 1 and "the figure summary was not drawn: ValueError: no colour is left" in err
    assert "All sections" in out and (few / "plots" / "charlm_cpu_forest.png").exists()
    assert "charlm_cpu_forest.png" in report_of(few / "results")


def test_a_plots_folder_that_cannot_be_written_costs_the_figures_and_no_number(tmp_path, analyze):
    study = shutil.copytree(REFERENCE / "longer", tmp_path / "longer")
    (tmp_path / "a file").touch()
    status, out, err = analyze(study, "--plots-dir", str(tmp_path / "a file" / "plots"))
    assert status == 1 and "the figure forest was not drawn: RunError: cannot write" in err
    assert "Traceback" not in err and "All sections" in out and "SmeLU β=1" in report_of(study)


def test_activations_are_compared_at_the_loss_that_was_named(tmp_path, analyze):
    """The longer study: its curves have eleven points, of which five and more are around 2.5 nats."""
    study = shutil.copytree(REFERENCE / "longer", tmp_path / "longer")
    status, out, _ = analyze(study, "--no-figures", "--at-loss", "2.5")
    text = " ".join(out.split())
    assert (
        status == 0
        and "Relative PD at equal loss, 2.5 nats, against ReLU: SmeLU β=1 +" in text
        and "inconclusive" in text
    )
    _, out, _ = analyze(study, "--no-figures", "--at-loss", "2.5", "--last-step", "150")
    assert "Relative PD at equal loss, 2.5 nats, against ReLU: SmeLU β=1 loss not reached" in " ".join(out.split())
    _, out, _ = analyze(study, "--no-figures", "--at-loss", "3.5")
    assert "Relative PD at equal loss, 3.5 nats, against ReLU: SmeLU β=1 curve too coarse" in " ".join(out.split())
    _, out, _ = analyze(study, "--no-figures")
    assert "no common loss was fixed beforehand" in " ".join(out.split())


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


@pytest.mark.parametrize(
    ("other", "contrast", "says"),
    [
        ("longer", "smelu_1:relu", "differ in learning rate and seeds only (config.max_iters: 100 against 500)"),
        ("matched", "gelu=2e-3:relu", "no results of 'gelu=2e-3'; there are smelu_05=0.0003"),
        ("matched", "gelu=fast:relu", "a learning rate must be a number, not 'fast'"),
    ],
)
def test_studies_that_no_contrast_can_join_are_refused(other, contrast, says, analyze):
    options = ("--no-figures", "--compare", REFERENCE / other, "--contrasts", contrast)
    status, _, error = analyze(REFERENCE / "matched", *options)
    assert status == 2 and says in error


def test_an_activation_in_a_contrast_names_its_rate_if_the_studies_have_several(analyze):
    """Of the tuning studies of the answer, two trials each: too few for an interval, but not for a mean."""
    tuning = REFERENCE / "answer" / "tuning"
    slow, fast = sorted(tuning.iterdir())[:2]
    options = ("--no-figures", "--compare", fast, "--contrasts")
    status, _, error = analyze(slow, *options, "gelu:relu")
    assert status == 2 and "gelu was trained at several learning rates; name one, such as gelu=" in error
    rates = [
        json_files.read_json(folder / "study.json")["identity"]["config"]["learning_rate"] for folder in (slow, fast)
    ]
    status, out, _ = analyze(slow, *options, f"relu={rates[1]:g}:relu={rates[0]:g}")
    assert status == 0 and f"ReLU at {rates[1]:g} / ReLU at {rates[0]:g}" in out


def test_pooled_studies_are_a_table_and_a_figure_of_all_pairs(tmp_path, analyze):
    folders = [REFERENCE / name for name in ("matched", "longer", "architectures")]
    status, out, _ = analyze(REFERENCE / "matched", "--plots-dir", tmp_path, "--pooled", *folders)
    assert status == 0 and "37 cells" in out and "| architecture " in out and (tmp_path / "all_cpu_pooled.png").exists()
    status, _, error = analyze(REFERENCE / "matched", "--pooled", REFERENCE / "longer")
    assert status == 2 and "have 2 combinations of architecture and activation" in error


def test_an_outlying_run_has_its_section(tmp_path, analyze):
    study = shutil.copytree(REFERENCE / "matched", tmp_path / "matched")
    analyze(study, "--no-figures")
    assert "Flagged runs, and the means with and without them" in report_of(study)


def test_the_report_is_written_though_the_reader_of_the_output_has_gone(few, monkeypatch):
    """As of `| head -3`."""
    reading, writing = os.pipe()
    os.close(reading)
    monkeypatch.setattr("sys.stdout", os.fdopen(writing, "w"))
    with pytest.raises(SystemExit) as stop:
        scripts.run(analyze_results.main, ["--no-figures"])
    assert stop.value.code == 0
    assert all((few / "results" / name).stat().st_size > 1000 for name in analyze_results.REPORT_FILES)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--measure", "js_divergence"), "it needs --contrasts"),
        (("--contrasts", "smelu_1:relu", "--measure", "js"), "unknown measure 'js'"),
        (("--contrasts", "smelu_1:relu", "--measure", "symmetric_kl", "--at-loss", "2.4"), "not stored along training"),
    ],
)
def test_a_measure_that_contrasts_cannot_have_is_refused(options, says, analyze):
    status, _, error = analyze(REFERENCE / "longer", "--no-figures", *options)
    assert status == 2 and says in error
