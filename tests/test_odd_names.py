"""Claims about texts of a user's own: any name is shown as it is, and a result finds its text again or says what it wants."""

import hashlib
import shutil

import pytest
import studies

from common import json_files

NAME = "<img src=x onerror=alert(1)> $$ _[a](b)_ 日本 | `c`.txt"
STUDY = ("run_all_experiments.py", "--activations", "relu", "--trials", "2", "--workers", "2", *studies.TINY)


def run_study(folder, corpus):
    done = studies.run(*STUDY, "--corpus", corpus, folder=folder)
    assert done.status == 0, done.out + done.err
    return json_files.read_json(folder / "results" / "charlm_relu.json")


@pytest.mark.slow
def test_a_text_of_any_name_is_analysed_with_figures(tmp_path, tiny_corpus_file):
    text = tiny_corpus_file.read_text().replace("king", "国王")
    (tmp_path / NAME).write_text(text)
    assert run_study(tmp_path, NAME)["corpus"]["label"] == NAME
    done = studies.run("analyze_results.py", folder=tmp_path)
    assert done.status == 0 and not any(word in done.err for word in ("Traceback", "Glyph", "Warning")), done.err
    markdown, html = ((tmp_path / "results" / name).read_text() for name in ("REPORT.md", "report.html"))
    assert "<img src=x" not in markdown and "&lt;img src=x" in markdown and "[a](b)" not in markdown
    assert "<img src=x" not in html and "&lt;img src=x" in html
    assert "2 characters of it, drawn as boxes: 国王" in markdown or "drawn as boxes" not in markdown


def test_a_result_finds_its_text_again_or_says_what_it_wants(tmp_path, tiny_corpus_file):
    (tmp_path / "texts").mkdir()
    path, moved = tmp_path / "texts" / "mine.txt", tmp_path / "moved.txt"
    shutil.copy(tiny_corpus_file, path)
    corpus = run_study(tmp_path, "texts/mine.txt")["corpus"]
    assert (corpus["label"], corpus["path"]) == ("mine.txt", "texts/mine.txt")
    commands = (
        ("analyze_results.py", "--no-figures", "--recompute"),
        ("train.py", "--verify", "results/charlm_relu.json"),
    )
    for command in commands:
        done = studies.run(*command, folder=tmp_path)
        assert done.status == 0 and "identical" in done.out, done.out + done.err
    path.rename(moved)
    for command in commands:
        lost = studies.run(*command, folder=tmp_path)
        says = f"was made on mine.txt, SHA-256 {corpus['sha256'][:12]}..., but texts/mine.txt does not exist"
        assert lost.status == 2 and says in lost.err and "give the text with --corpus FILE" in lost.err
        done = studies.run(*command, "--corpus", "moved.txt", folder=tmp_path)
        assert done.status == 0 and "identical" in done.out, done.out + done.err
    said = studies.run("analyze_results.py", "--no-figures", folder=tmp_path)
    report = (tmp_path / "results" / "REPORT.md").read_text()
    assert said.status == 0 and "left out: the result was made on mine.txt" in report
    path.write_text("another text " * 500)
    for command in commands:
        wrong = studies.run(*command, folder=tmp_path)
        assert wrong.status == 2 and "texts/mine.txt is another text" in wrong.err


@pytest.mark.parametrize("name", ["shakespeare", "pydoc", "pydoc-3.11.2", "Shakespeare"])
def test_a_file_is_not_taken_for_a_corpus_of_the_project(tmp_path, tiny_corpus_file, name, monkeypatch):
    from tasks.corpus import load_corpus, load_recorded
    from tasks.text import Text

    path = tmp_path / name
    shutil.copy(tiny_corpus_file, path)
    corpus = load_corpus(str(path))
    assert corpus.label == f"{name} (a file)"
    assert corpus.text_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert load_recorded(Text(corpus).facts()).text_sha256 == corpus.text_sha256


def test_shakespeare_in_a_file_of_that_name_is_shakespeare(tmp_path, shakespeare):
    from tasks.corpus import load_corpus

    (tmp_path / "shakespeare").write_text(shakespeare.decode(shakespeare.tokens))
    assert load_corpus(str(tmp_path / "shakespeare")).label == "shakespeare"


def test_a_name_with_a_line_end_stays_on_one_line(tmp_path, tiny_corpus_file):
    from tasks.corpus import load_corpus

    shutil.copy(tiny_corpus_file, tmp_path / "two\nlines.txt")
    assert load_corpus(str(tmp_path / "two\nlines.txt")).label == "two\N{REPLACEMENT CHARACTER}lines.txt"


@pytest.mark.parametrize(
    ("fact", "says"),
    [
        ("LABEL = 5", "LABEL of the activation 'soft' must be a string of one line, not 5"),
        ("LABEL = ''", "LABEL of the activation 'soft' must be a string of one line"),
        ("LABEL = 'a\\nb'", "LABEL of the activation 'soft' must be a string of one line"),
        ("FORMULA = ['x']", "FORMULA of the activation 'soft' must be a string of one line"),
        ("GATED = 'no'", "GATED of the activation 'soft' must be True or False, not 'no'"),
        ("SMOOTHNESS = ['C1']", "unknown smoothness"),
    ],
)
def test_a_label_that_is_no_text_is_refused(tmp_path, fact, says):
    (tmp_path / "soft.py").write_text(f"import torch\n{fact}\n\n\ndef soft(x):\n    return x * torch.sigmoid(4 * x)\n")
    done = studies.run("test_cpu.py", "--activation-file", "soft.py", folder=tmp_path)
    assert (done.status, done.err.count("\n"), says in done.err) == (2, 1, True), done.out + done.err
