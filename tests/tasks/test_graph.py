"""Claims about graphs: their data, what is unpickled, and that trials on them repeat, resume and are verified."""

import hashlib
import os
import pickle

import numpy as np
import pytest
import scipy.sparse
import studies

import train
from common.errors import UserError
from tasks import graph
from tasks.registry import load_recorded, load_task

pytest.importorskip("sklearn", reason="scikit-learn is not installed (requirements-tasks.txt)")


@pytest.fixture(scope="module")
def digits():
    return load_task("graph")


def test_each_digit_is_joined_with_its_nearest_others(digits):
    from sklearn.datasets import load_digits
    from sklearn.neighbors import kneighbors_graph

    expected = kneighbors_graph(load_digits().data, 8).toarray() > 0
    different = (digits.data.edges != (expected | expected.T)).any(1)
    assert different.mean() < 0.05  # where several are equally near, scikit-learn may choose another one
    assert not digits.data.edges.diagonal().any() and (digits.data.edges == digits.data.edges.T).all()
    assert digits.sha256.startswith("969a2881aa1d")


def test_labelled_and_test_nodes_are_apart(digits):
    train_classes, test_classes = (digits.targets(split, None)[:, 0] for split in ("train", "validation"))
    assert np.bincount(train_classes).tolist() == [10] * 10 and len(test_classes) == 1000
    assert not set(digits.data.labelled) & set(digits.data.test)


def test_the_adjacency_matrix_is_normalized_with_self_loops(digits):
    _, adjacency = (part.numpy() for part in digits._on_device("cpu"))
    degrees = digits.data.edges.sum(1) + 1
    np.testing.assert_allclose(adjacency.diagonal(), 1 / degrees, rtol=1e-6)
    np.testing.assert_allclose(adjacency @ np.sqrt(degrees), np.sqrt(degrees), rtol=1e-5)


@pytest.mark.parametrize("architecture", ["gcn", "gat"])
def test_a_trial_that_was_interrupted_ends_with_the_same_bits(architecture, digits, tmp_path):
    trial = studies.a_trial(architecture=architecture, dropout=0.2)
    expected = train.run_trial(trial, digits)
    assert expected["log_probabilities"].shape == (1000, 1, 10)
    copy = pickle.loads(pickle.dumps(digits))
    studies.assert_same(studies.interrupted_and_resumed(trial, digits, tmp_path, resumed_task=copy), expected)


def test_a_study_of_the_first_architecture_is_trained_and_verified(tmp_path):
    options = ("--n-embd", "8", "--max-iters", "4", "--eval-interval", "2", "--trials", "2", "--workers", "1")
    study = ("run_all_experiments.py", "--task", "graph", "--config", "cpu", *options, "--activations", "relu")
    done = studies.run(*study, folder=tmp_path)
    assert done.status == 0 and "graph digits, cpu, 4 steps" in done.out, done.out + done.err
    verified = studies.run("train.py", "--verify", "results/graph/gcn_relu.json", "--trial", "2", folder=tmp_path)
    assert verified.status == 0 and "identical: weights_sha256" in verified.out, verified.out + verified.err
    refused = studies.run(*study, "--probes", "gradient_norm", folder=tmp_path)
    assert refused.status == 2 and "the task graph has no fixed batch" in refused.err


# --- Cora ------------------------------------------------------------------------------------------------------------


def pickled(thing) -> bytes:
    """With the names that the parts of numpy and scipy had in Python 2."""
    content = pickle.dumps(thing, protocol=3)
    for now, then in ((b"numpy._core.", b"numpy.core."), (b"scipy.sparse._csr", b"scipy.sparse.csr")):
        content = content.replace(now, then)
    return content


@pytest.fixture
def cora_folder(tmp_path, monkeypatch):
    """Six nodes in the form of Cora, the last three of them test nodes in another order, which then are the ones expected."""
    x, y = np.arange(24.0, dtype=np.float32).reshape(6, 4) % 5, np.eye(3, dtype=np.int32)[[0, 1, 2, 2, 1, 0]]
    parts = {
        "allx": scipy.sparse.csr_matrix(x[:3]),
        "ally": y[:3],
        "tx": scipy.sparse.csr_matrix(x[[4, 3, 5]]),
        "ty": y[[4, 3, 5]],
        "graph": {0: [1, 2], 1: [1], 2: [], 3: [0, 4, 4]},
    }
    known = {}
    contents = {name: pickled(part) for name, part in parts.items()} | {"test.index": b"4\n3\n5\n"}
    for name, content in contents.items():
        (tmp_path / f"ind.cora.{name}").write_bytes(content)
        known[name] = (hashlib.sha256(content).hexdigest(), len(content))
    monkeypatch.setattr(graph, "CORA", known)
    monkeypatch.setattr(graph, "CORA_LABELLED", 2)
    monkeypatch.setenv("CHARLM_CORA", str(tmp_path))
    return x, tmp_path


def test_cora_is_put_together_from_its_files(cora_folder):
    x, folder = cora_folder
    task = load_task("graph", "cora")
    np.testing.assert_allclose(task.data.features, x / x.sum(1, keepdims=True), rtol=1e-6)
    assert task.data.classes.tolist() == [0, 1, 2, 2, 1, 0]
    assert np.argwhere(np.triu(task.data.edges)).tolist() == [[0, 1], [0, 2], [0, 3], [3, 4]]
    assert task.data.labelled.tolist() == [0, 1] and task.data.test.tolist() == [3, 4, 5]
    assert load_recorded({"task": task.facts()}).sha256 == task.sha256
    (folder / "ind.cora.ty").write_bytes(b"other")
    with pytest.raises(UserError, match="is not Cora's ty: its SHA-256 is"):
        load_task("graph", "cora")


class Harmful:
    def __reduce__(self):
        return os.system, ("exit 1",)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (pickled(Harmful()), r"ind.cora.x holds posix.system; only arrays of numpy and scipy are unpickled"),
        (pickled(np.arange(3))[:-5], r"ind.cora.x cannot be unpickled: "),
        (b"no pickle", r"ind.cora.x cannot be unpickled: "),
    ],
    ids=["a command", "cut short", "no pickle"],
)
def test_a_pickle_that_holds_anything_but_arrays_is_refused(content, says):
    with pytest.raises(UserError, match=says) as caught:
        graph.unpickle(content, "ind.cora.x")
    assert "\n" not in str(caught.value)


@pytest.mark.skipif("CHARLM_CORA" not in os.environ, reason="no Cora here: CHARLM_CORA is not set")
def test_cora_is_the_graph_of_the_literature():
    """Sizes as in Yang et al. 2016, table 1; edges as counted without duplicates and self-loops."""
    facts = load_task("graph", "cora").facts()
    assert (facts["n_nodes"], facts["n_edges"], facts["n_train"], facts["n_validation"]) == (2708, 5278, 140, 1000)
    assert facts["model_sizes"] == {"n_features": 1433, "n_classes": 7}
