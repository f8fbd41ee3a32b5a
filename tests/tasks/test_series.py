"""Claims about time series: how .ts files become inputs, and every check of the architectures for them."""

import zipfile

import numpy as np
import pytest
import studies
from finite_differences import hessian_error_of_task
from grids import grid

import train
from architectures.checks import check
from architectures.registry import architectures_of, build_model, initialize
from config_cpu import ConfigCPU
from tasks import series
from tasks.data_files import sha256_of
from tasks.registry import load_recorded, load_task

NAMES = architectures_of("series")
HEADER = "# about it\n@problemName waves\n@univariate false\n\n@classLabel true slow fast\n@data\n"
TRAIN = HEADER + "1,2,3:0,0,1:fast\n-1,-2,-3.5:1e1,0,1:slow\n"


def waves(n, length, n_dimensions) -> str:
    """n series, slow or fast waves in noise."""
    rng = np.random.default_rng(n)
    lines = []
    for k in range(n):
        wave = np.sin(np.arange(length) * (1 + k % 2) / 2 + rng.random())
        series_of_k = wave + 0.1 * rng.standard_normal((n_dimensions, length))
        lines.append(":".join(",".join(f"{x:.4f}" for x in one) for one in series_of_k) + f":{('slow', 'fast')[k % 2]}")
    return HEADER + "\n".join(lines)


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """Waves in place of two data sets: one to be classified, and one whose next value is predicted."""
    wheel = tmp_path_factory.mktemp("wheel") / series.AEON.path
    with zipfile.ZipFile(wheel, "w") as file:
        for path, shape in (("JapaneseVowels/JapaneseVowels_eq", (8, 2)), ("OSULeaf/OSULeaf", (12, 1))):
            for part, n in (("TRAIN", 16), ("TEST", 6)):
                file.writestr(f"aeon/datasets/data/{path}_{part}.ts", waves(n, *shape))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHARLM_AEON", str(wheel))
        patch.setattr(series, "AEON", studies.replace(series.AEON, sha256=sha256_of(wheel.read_bytes())))
        yield


@pytest.fixture(scope="module")
def classified(known):
    return load_task("series")


@pytest.fixture(scope="module")
def predicted(known):
    return load_task("series", "OSULeaf_next")


# --- data -------------------------------------------------------------------------------------------------------------


def test_a_ts_file_is_read_series_by_series():
    values, classes = series.read_ts(TRAIN)
    assert values.tolist() == [[[1, 0], [2, 0], [3, 1]], [[-1, 10], [-2, 0], [-3.5, 1]]]
    assert classes.tolist() == [1, 0]  # in the order of @classLabel


def test_each_dimension_is_standardized_by_the_training_split(classified):
    x, y = classified.splits["train"]
    assert x.shape == (16, 8, 2) and y.shape == (16, 1) and classified.n_classes == 2
    np.testing.assert_allclose(x.mean(axis=(0, 1)), 0, atol=1e-6)
    np.testing.assert_allclose(x.std(axis=(0, 1)), 1, rtol=1e-5)
    assert classified.splits["validation"].inputs.shape == (6, 8, 2)
    assert classified.model_sizes["n_positions"] == 1


def test_the_next_value_is_predicted_in_bins_that_hold_equally_many_training_values(predicted):
    x, y = predicted.splits["train"]
    assert x.shape == (16, 11, 1) and y.shape == (16, 11) and predicted.n_classes == series.N_BINS
    assert y.min() == 0 and y.max() == series.N_BINS - 1
    np.testing.assert_allclose(np.bincount(y.flatten()) / y.size, 1 / series.N_BINS, atol=0.03)
    for example, bins in zip(x[..., 0], y):  # a larger value never lies in a lower bin
        order = np.argsort(example[1:])
        assert (np.diff(bins[:-1][order]) >= 0).all()


def test_the_first_values_of_long_series_are_predicted(known, monkeypatch):
    monkeypatch.setattr(series, "N_STEPS", 4)
    _, validation = series.read_next_value("OSULeaf")
    assert validation.inputs.shape == (6, 4, 1) and validation.targets.shape == (6, 4)


def test_the_data_set_of_a_result_is_found_again(predicted):
    assert predicted.label == "OSULeaf_next"
    assert load_recorded({"task": predicted.facts()}).sha256 == predicted.sha256


# --- architectures ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("architecture", "activation"), grid("series", "tcn"))
def test_an_architecture_with_an_activation_passes_every_check(architecture, activation, classified):
    """The activation acts; it learns everywhere, starts ignorant, can overfit; it is stored and it repeats."""
    assert check(architecture, activation, ConfigCPU(n_layer=1), classified) == []


@pytest.mark.parametrize("architecture", NAMES)
def test_the_next_value_is_predicted_at_every_step_from_the_values_so_far(architecture, predicted):
    model = initialize(build_model(architecture, "gelu", ConfigCPU(n_embd=8, n_head=2), predicted.model_sizes), 1)
    x, _ = predicted.examples("validation", None, "cpu")
    other = x.clone()
    other[:, 5] += 1
    changed = (model(other) - model(x)).abs().amax(dim=(0, 2))
    assert changed.shape == (11,)
    assert (changed[:5] < 1e-6).all() and (changed[5:] > 1e-6).any()
    assert changed[5] > 1e-6


@pytest.mark.parametrize("architecture", NAMES)
def test_a_trial_that_was_interrupted_ends_with_the_same_bits(architecture, predicted, tmp_path):
    trial = studies.a_trial(architecture=architecture, dropout=0.2)
    expected = train.run_trial(trial, predicted)
    assert expected["log_probabilities"].shape == (6, 11, 16)
    studies.assert_same(studies.interrupted_and_resumed(trial, predicted, tmp_path), expected)


@pytest.mark.parametrize("architecture", NAMES)
def test_hessian_products_are_finite_differences_of_gradients(architecture, classified):
    assert hessian_error_of_task(architecture, classified, ConfigCPU(n_layer=1, n_embd=8, n_head=2)) < 1e-4
