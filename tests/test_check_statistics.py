"""The proof of the statistics: it runs, it reports every promise, and it notices a broken one."""

import json

import numpy as np

import check_statistics
from analysis import significance


def test_the_proof_runs_and_writes_what_it_prints(run_script, tmp_path):
    done = run_script("check_statistics.py", "--studies", 100, "--json", "proof.json", "--markdown", "proof.md")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = json.loads((tmp_path / "proof.json").read_text())["lines"]
    assert {line["table"] for line in lines} == set(check_statistics.TABLES)
    assert (tmp_path / "proof.md").read_text() in done.stdout
    assert "0 broken" in done.stdout


def test_an_interval_over_pairs_would_break_the_promise(monkeypatch):
    """The naive interval in place of ours: the proof must notice."""

    def naive(matrix):
        return significance.mean_interval(matrix[np.triu_indices(len(matrix), 1)])

    monkeypatch.setattr(check_statistics, "pair_interval", naive)
    case = next(case for case in check_statistics.cases() if case[1][:3] == ("normal", 5, 0.5))
    (line,) = check_statistics.run(*case, 200)
    assert line["kept"] is False
    assert line["studies"] == 800  # simulated again before it is called broken


def test_a_mistake_is_one_sentence_and_status_2(run_script):
    for arguments in (["--studies", 5], ["--json", "nowhere/proof.json"], ["--studies", "many"]):
        done = run_script("check_statistics.py", *arguments)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
