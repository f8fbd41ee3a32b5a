"""Claims about disagreement by frequency: groups hold equal shares, their values are the metrics' own, and the command says them."""

import numpy as np
import pytest
import studies
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import metrics
from analysis.frequency import by_group, frequency_groups


def test_groups_go_from_frequent_to_rare_and_have_about_equal_shares():
    targets = np.repeat(np.arange(8), [40, 25, 15, 10, 4, 3, 2, 1])
    groups = frequency_groups(targets, 9, 4)
    assert groups.tolist() == [0, 2, 2, 3, 3, 3, 3, 3, 3]  # the middles lie at 20, 52, 72, 85, ... of 100
    assert frequency_groups(np.repeat(np.arange(4), 10), 4, 4).tolist() == [0, 1, 2, 3]


@given(hnp.arrays(int, st.integers(1, 60), elements=st.integers(0, 6)))
def test_a_more_frequent_class_is_never_in_a_later_group(targets):
    groups, counts = frequency_groups(targets, 7), np.bincount(targets, minlength=7)
    assert all(groups[a] <= groups[b] for a in range(7) for b in range(7) if counts[a] > counts[b])


def test_over_all_positions_the_values_are_those_of_the_metrics():
    rng = np.random.default_rng(0)
    log_p, log_q = (np.log(rng.dirichlet(np.ones(5), 200)) for _ in range(2))
    targets, groups = rng.integers(5, size=(20, 10)), rng.integers(3, size=200)
    found = by_group(log_p, log_q, groups)
    expected, _ = metrics.compare(log_p.reshape(20, 10, 5), log_q.reshape(20, 10, 5), targets)
    assert all(values[0] == pytest.approx(expected[name]) for name, values in found.items())
    one = groups == 1
    assert found["relative_pd"][2] == pytest.approx(np.abs(np.exp(log_p) - np.exp(log_q))[one].sum(1).mean() / 2)


def test_the_command_prints_a_table_per_activation_and_needs_the_predictions(tmp_path, tiny_corpus_file):
    sizes = ("--n-layer=1", "--n-head=2", "--n-embd=8", "--block-size=16", "--batch-size=4", "--curve-windows=4")
    options = (
        "--activations=relu,gelu",
        "--trials=3",
        "--max-iters=8",
        "--eval-spacing=log",
        f"--corpus={tiny_corpus_file}",
    )
    assert studies.run("run_all_experiments.py", *sizes, *options, folder=tmp_path).status == 0
    run = studies.run("analyze_results.py", "--by-frequency", f"--corpus={tiny_corpus_file}", folder=tmp_path)
    assert run.status == 0 and "CharLM, ReLU, n = 3 trials" in run.out and "| 8 " in run.out
    assert len(list(tmp_path.glob("plots/*_by_frequency.png"))) == 1
    next(tmp_path.glob("checkpoints/charlm_relu/trial_2.curve/4.*")).unlink()
    run = studies.run("analyze_results.py", "--by-frequency", f"--corpus={tiny_corpus_file}", folder=tmp_path)
    assert run.status == 2 and "the predictions along training are needed" in run.err
