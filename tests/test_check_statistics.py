"""The simulation study of the statistics: it runs, it reports every promise, and it notices a broken one."""

import json

import numpy as np

from analysis.estimates import mean_interval
from simulations import cases, limits, rules, tables

FAST = 100  # studies: what a line says is then rough, but every case runs


def test_the_simulation_runs_and_writes_what_it_prints(run_script, tmp_path):
    done = run_script("check_statistics.py", "--studies", FAST, "--json", "found.json", "--markdown", "found.md")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = json.loads((tmp_path / "found.json").read_text())["lines"]
    assert {line["table"] for line in lines} == set(tables.TABLES)
    assert (tmp_path / "found.md").read_text() in done.stdout
    assert "0 broken" in done.stdout


def test_a_known_limit_is_shown_and_does_not_count():
    """Five percent of runs four times as far: no interval of ten runs covers the mean over all."""
    case = next(case for case in cases.cases() if case == (limits.outlying_trials, (10, 0.05)))
    all_runs, ordinary_runs, _ = cases.run(*case, 300)
    assert all_runs["kept"] is False
    assert all_runs["limit"]
    assert tables.row_of(all_runs, 300)["kept"] == "breaks"
    assert ordinary_runs["kept"]


def test_an_interval_over_pairs_would_break_the_promise(monkeypatch):
    """The naive interval in place of ours: the simulation must notice."""

    def naive(matrix):
        return mean_interval(matrix[np.triu_indices(len(matrix), 1)])

    monkeypatch.setattr(rules, "pair_interval", naive)
    case = next(case for case in cases.cases() if case[1][:3] == ("normal", 5, 0.5))
    (line,) = cases.run(*case, 200)
    assert line["kept"] is False
    assert line["studies"] == 800  # simulated again before it is called broken


def test_a_mistake_is_one_sentence_and_status_2(run_script):
    for arguments in (["--studies", 5], ["--json", "nowhere/found.json"], ["--studies", "many"]):
        done = run_script("check_statistics.py", *arguments)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
