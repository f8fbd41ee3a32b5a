"""Claims about images: their data, and that trials on them repeat, resume and are verified."""

import gzip
import hashlib

import numpy as np
import pytest
import studies
import torch
from finite_differences import hessian_error_of_task

import train
from common.errors import UserError
from config_cpu import ConfigCPU
from tasks import images
from tasks.registry import load_recorded, load_task

pytest.importorskip("sklearn", reason="scikit-learn is not installed (requirements-tasks.txt)")
ARCHITECTURES = ("cnn", "vit", "image_mlp")


@pytest.fixture(scope="module")
def digits():
    return load_task("images")


def test_every_third_digit_is_a_validation_example(digits):
    from sklearn.datasets import load_digits

    x, y = digits.examples("validation", None, "cpu")
    expected = load_digits()
    np.testing.assert_array_equal(x[:, 0] * 8 + 8, expected.images[2::3])
    np.testing.assert_array_equal(y[:, 0], expected.target[2::3])
    assert (digits.facts()["n_train"], digits.facts()["n_validation"]) == (1198, 599)
    assert digits.sha256.startswith("b20f8c8e888b")
    assert (x.min(), x.max()) == (-1, 1)


def test_as_many_training_as_validation_examples_are_evaluated(digits):
    x, y = digits.examples("train", None, "cpu")
    assert x.shape == (599, 1, 8, 8)
    np.testing.assert_array_equal(y, digits.targets("train", None))
    np.testing.assert_array_equal(y, digits.splits["train"].targets[::2])


def test_batches_are_drawn_from_the_training_split_by_the_trials_generator(digits):
    config = studies.ConfigCPU(batch_size=2000)
    x, y = digits.draw_batch(np.random.default_rng(1), config, "cpu")
    again, _ = digits.draw_batch(np.random.default_rng(1), config, "cpu")
    assert torch.equal(x, again)
    known = {image.tobytes() for image in digits.splits["train"].inputs}
    drawn = {image.tobytes() for image in ((x + 1) * 8).to(torch.uint8).numpy()}
    assert drawn <= known and len(drawn) > 900 and y.shape == (2000, 1)


@pytest.fixture
def fashion_folder(tmp_path, monkeypatch):
    """A folder with six images in the form of Fashion-MNIST, which then are the ones expected."""
    known = {}
    for part, n in (("train", 4), ("t10k", 2)):
        for what, content in (
            ("images-idx3", bytes([0, 0, 8, 3, 0, 0, 0, n, 0, 0, 0, 2, 0, 0, 0, 3, *range(6 * n)])),
            ("labels-idx1", bytes([0, 0, 8, 1, 0, 0, 0, n, *range(n)])),
        ):
            (tmp_path / f"{part}-{what}-ubyte.gz").write_bytes(gzip.compress(content))
            known[f"{part}-{what}-ubyte"] = (hashlib.sha256(content).hexdigest(), len(content))
    monkeypatch.setattr(images, "FASHION_MNIST", known)
    monkeypatch.setenv("CHARLM_FASHION_MNIST", str(tmp_path))
    return tmp_path


def test_fashion_mnist_is_read_from_its_four_files(fashion_folder):
    task = load_task("images", "fashion_mnist")
    np.testing.assert_array_equal(task.splits["train"].inputs, np.arange(24).reshape(4, 1, 2, 3))
    np.testing.assert_array_equal(task.splits["validation"].targets, [[0], [1]])
    assert (task.label, task.model_sizes) == ("fashion_mnist", {"shape": [1, 2, 3], "n_classes": 4})
    assert load_recorded({"task": task.facts()}).sha256 == task.sha256
    (fashion_folder / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"other"))
    with pytest.raises(UserError, match="is not Fashion-MNIST's t10k-labels-idx1-ubyte"):
        load_task("images", "fashion_mnist")


def test_another_data_set_is_refused():
    with pytest.raises(UserError, match="unknown data set of the task images 'mnist'; did you mean 'fashion_mnist'"):
        load_task("images", "mnist")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_trial_that_was_interrupted_ends_with_the_same_bits(architecture, digits, tmp_path):
    trial, other = (studies.a_trial(k, architecture=architecture, dropout=0.2) for k in (1, 2))
    expected = train.run_trial(trial, digits)
    studies.assert_same(studies.interrupted_and_resumed(trial, digits, tmp_path), expected)
    assert train.run_trial(other, digits)["record"]["weights_sha256"] != expected["record"]["weights_sha256"]


def test_a_study_of_the_first_architecture_is_trained_and_verified(tmp_path):
    done, verified = studies.trained_and_verified("images", "cnn", 4, tmp_path)
    assert done.status == 0 and "images digits, cpu, 4 steps" in done.out, done.out + done.err
    assert verified.status == 0 and "identical: weights_sha256" in verified.out, verified.out + verified.err


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_is_compiled_of_an_image_model_is_its_step(architecture, digits, not_compiled):
    trial = studies.a_trial(architecture=architecture, max_iters=3)
    compiled = train.run_trial(studies.replace(trial, compiled=True), digits)
    assert studies.farthest(compiled["weights"], train.run_trial(trial, digits)["weights"]) < 1e-6


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_hessian_products_are_finite_differences_of_gradients(architecture, digits):
    assert hessian_error_of_task(architecture, digits, ConfigCPU(n_layer=1, n_embd=8, n_head=2)) < 1e-4
