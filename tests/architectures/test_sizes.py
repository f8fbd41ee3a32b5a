"""Claims about the sweep over sizes: the rules, the studies they make, and what is answered from them."""

import signal
import time

import pytest
import studies

from architectures.registry import count_parameters, solve_width
from architectures.sizes import (
    FIELDS,
    TOLERANCE,
    config_for,
    learning_rate_for,
    n_parameters,
    shape_for,
    size_name,
    size_of,
)
from common.errors import UserError
from config import Config
from config_cpu import ConfigCPU

SIZES = ("1M", "2M", "5M", "10M", "20M", "50M", "100M")  # of the report's section 7.3


# --- the rules ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", [Config(), ConfigCPU()], ids=["gpu", "cpu"])
@pytest.mark.parametrize("name", SIZES)
def test_a_model_has_the_size_that_was_asked_for(name, base):
    size = size_of(name)
    config = config_for(size, base, 65)
    found = count_parameters("charlm", config, 65)
    assert abs(found / size - 1) <= TOLERANCE
    assert found == n_parameters(config.n_layer, config.n_embd, config.block_size, 65)


@pytest.mark.parametrize("name", ["1M", "10M"])
def test_minigpt_has_the_size_of_charlm(name):
    config = config_for(size_of(name), ConfigCPU(), 65)
    found = count_parameters("minigpt", config, 65, solve_width("minigpt", config, 65))
    assert abs(found / size_of(name) - 1) <= TOLERANCE


@pytest.mark.parametrize("block_size", [64, 128, 256, 512])
def test_shapes_keep_to_the_rule_over_three_powers_of_ten(block_size):
    for step in range(31):
        size = round(1e6 * 10 ** (step / 10))
        n_layer, n_head, width = shape_for(size, block_size, 65)
        assert abs(n_parameters(n_layer, width, block_size, 65) / size - 1) <= TOLERANCE
        assert width % 8 == 0 and width % n_head == 0
        assert 64 / 3.01 <= width / n_layer <= 64 * 3.01 and 46 <= width / n_head <= 90


def test_the_shapes_of_the_sweep_are_these():
    """Pinned: another shape under the same name would be another model under the same name."""
    shapes = [shape_for(size_of(name), 256, 65) for name in SIZES]
    assert shapes == [(3, 2, 160), (3, 4, 232), (5, 4, 288), (5, 6, 408), (7, 8, 488), (10, 10, 640), (12, 13, 832)]


def test_the_learning_rate_is_the_reports_at_the_reports_size_and_falls_with_size():
    rates = [learning_rate_for(size_of(name)) for name in SIZES]
    assert rates == [4e-4, 3.7e-4, 3.3e-4, 3e-4, 2.7e-4, 2.3e-4, 2e-4]
    assert learning_rate_for(10_795_776) == Config().learning_rate


def test_only_the_fields_of_the_rule_change():
    base = ConfigCPU(max_iters=7, dropout=0.1)
    changed = config_for(20_000_000, base, 65).as_dict()
    assert {name for name, value in base.as_dict().items() if changed[name] != value} == set(FIELDS)


@pytest.mark.parametrize(
    ("text", "size", "name"),
    [("1M", 10**6, "1M"), ("1.5m", 1_500_000, "1.5M"), ("2000K", 2_000_000, "2M"), ("3000000", 3_000_000, "3M")],
)
def test_a_size_may_be_typed_in_several_ways_and_has_one_name(text, size, name):
    assert size_of(text) == size and size_name(size) == name
    assert size_of(name) == size


@pytest.mark.parametrize("text", ["", "M", "-5M", "5 M M", "five", "99K", "2G", "nanM", "1e7"])
def test_what_is_no_size_is_refused_in_one_sentence(text):
    with pytest.raises(UserError, match=r"from 0\.1M to 1000M"):
        size_of(text)


def test_a_vocabulary_that_fills_the_model_is_refused():
    with pytest.raises(UserError, match="no CharLM has 1M parameters within 3% with a vocabulary of 400,000"):
        shape_for(10**6, 128, 400_000)


# --- the studies ----------------------------------------------------------------------------------------------------

SWEEP = (
    "--config cpu --scale 1M 2M --block-size 16 --batch-size 2 --max-iters 2 --eval-interval 1 --curve-windows 2"
    " --workers 2"
).split()


SMALL = ("--activations", "relu", "gelu", "--trials", "2")


def sweep(folder, corpus, *options):
    return studies.run("run_all_experiments.py", *SWEEP, "--corpus", corpus, *options, folder=folder)


@pytest.fixture(scope="module")
def short_corpus(tmp_path_factory, tiny_corpus_file):
    """So short that evaluating a model of 2M parameters takes no time."""
    path = tmp_path_factory.mktemp("short") / "short.txt"
    path.write_bytes(tiny_corpus_file.read_bytes()[:900])
    return path


@pytest.fixture(scope="module")
def swept(tmp_path_factory, short_corpus):
    folder = tmp_path_factory.mktemp("swept")
    run = sweep(folder, short_corpus, *SMALL)
    assert run.status == 0, run.out + run.err
    return folder, run


def test_one_command_makes_a_study_of_each_size(swept):
    folder, run = swept
    for name in ("1M", "2M"):
        study, results = studies.storage.read_study(folder / "results" / f"scale_{name}")
        assert {r["activation"] for r in results} == {"relu", "gelu"}
        assert all(len(r["trials"]) == 2 and len(r["pairs"]) == 1 for r in results)
        assert all(abs(r["n_parameters"] / size_of(name) - 1) <= TOLERANCE for r in results)
        assert study["identity"]["config"]["learning_rate"] == learning_rate_for(size_of(name))
        assert (folder / "checkpoints" / f"scale_{name}" / "charlm_gelu" / "trial_2.pt").exists()
    assert "analyze_results.py --scales results/scale_1M results/scale_2M" in run.out


def test_the_cost_of_each_size_and_of_all_is_said_before_the_start(swept):
    said = swept[1].out
    before, started = said.split("trials to train,", 1)
    assert before.count("of them to train: about") == 2 and "all 2 studies: about" in before and "done" in started


def test_a_sweep_that_was_interrupted_goes_on_to_the_same_bits(swept, short_corpus, tmp_path):
    run = studies.start("run_all_experiments.py", *SWEEP, *SMALL, "--corpus", short_corpus, folder=tmp_path)
    end = time.monotonic() + 60
    while not list(tmp_path.glob("results/scale_1M/charlm_*.json")) and time.monotonic() < end:
        time.sleep(0.01)
    run.signal(signal.SIGTERM)
    assert run.wait() == 143, run.out + run.err
    assert not list(tmp_path.glob("results/scale_2M/*.json")), "a sweep that is stopped begins no further study"
    again = sweep(tmp_path, short_corpus, *SMALL)
    assert again.status == 0, again.out + again.err
    assert studies.difference(swept[0], tmp_path) is None


def test_a_dry_run_says_the_cost_of_three_activations_and_three_trials_and_writes_nothing(short_corpus, tmp_path):
    run = sweep(tmp_path, short_corpus, "--dry-run")
    assert run.status == 0, run.err
    assert run.out.count("charlm with relu, smelu_1, gelu, 3 trials each") == 2
    assert run.out.count("9 trials, 9 of them to train: about") == 2 and "all 2 studies: about" in run.out
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--n-layer", "3"], "--n-layer is determined by --scale; leave one of them out"),
        (["--learning-rate", "0.001"], "--learning-rate is determined by --scale"),
        (["--scale", "1X"], "a size is a number of parameters from 0.1M to 1000M, such as 5M, but it is '1X'"),
        (["--protocol", "published"], "--scale has no effect under the published protocol"),
    ],
)
def test_a_mistake_in_a_sweep_is_one_sentence(options, sentence, short_corpus, tmp_path):
    run = sweep(tmp_path, short_corpus, *options)
    assert run.status == 2 and run.err.startswith(f"error: {sentence}") and run.err.count("\n") == 1


def test_the_analysis_of_a_sweep_says_what_two_sizes_cannot_decide(swept):
    folder, _ = swept
    folders = [f"results/scale_{name}" for name in ("1M", "2M")]
    run = studies.run("analyze_results.py", "--scales", *folders, folder=folder)
    assert run.status == 0, run.out + run.err
    assert "CharLM, Validation loss: inconclusive: fewer than 3 sizes" in run.out
    assert (folder / "results" / "SCALES.md").exists() and (folder / "results" / "scales.html").exists()
    assert (folder / "plots" / "charlm_cpu_sensitivity_against_size.png").exists()
