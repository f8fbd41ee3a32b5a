"""Claims about curvature: closed forms, dense matrices, finite differences for every activation and architecture, and determinism."""

import numpy as np
import pytest
import torch
from finite_differences import away_from_the_start, hessian_error
from studies import a_trial
from torch import nn

from activations import ACTIVATIONS
from architectures.registry import architectures_of, supports
from diagnostics.curvature import curvature, largest_eigenvalues, spectral_density, trace, twice_differentiable

CONFIG = a_trial().config.replace(n_layer=1, n_head=2, n_embd=8, block_size=6, batch_size=2)
VOCABULARY = 5


def rng(seed=0):
    return np.random.default_rng(seed)


def batch(seed=0):
    tokens = torch.from_numpy(rng(seed).integers(VOCABULARY, size=(2, CONFIG.block_size + 1)))
    return tokens[:, :-1], tokens[:, 1:]


def model_of(architecture="charlm", activation="gelu"):
    return away_from_the_start(architecture, activation, CONFIG, VOCABULARY)


def dense(operator):
    return np.array([operator.matvec(row) for row in np.eye(operator.shape[0])])


class Softmax(nn.Module):
    """Logistic regression: the logits are linear in the weights."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(VOCABULARY, VOCABULARY)

    def forward(self, tokens):
        return self.table(tokens)


def test_of_logistic_regression_hessian_and_gauss_newton_are_one_closed_form():
    x, y = batch()
    model = twice_differentiable(Softmax())
    p = model(x).softmax(-1).detach().flatten(0, 1).numpy()
    expected = np.zeros((VOCABULARY, VOCABULARY, VOCABULARY, VOCABULARY))
    for token, row in zip(x.flatten().tolist(), p):
        expected[token, :, token, :] += (np.diag(row) - np.outer(row, row)) / len(p)
    expected = expected.reshape(VOCABULARY**2, VOCABULARY**2)
    for kind in ("hessian", "gauss_newton"):
        np.testing.assert_allclose(dense(curvature(model, x, y, kind)), expected, atol=1e-12)


CASES = [("charlm", name) for name in ACTIVATIONS] + [
    (name, "swish") for name in architectures_of("text") if name != "charlm"
]


@pytest.mark.parametrize(("architecture", "activation"), [c for c in CASES if supports(*c) is None])
def test_hessian_products_are_finite_differences_of_gradients(architecture, activation):
    assert hessian_error(model_of(architecture, activation), *batch()) < 1e-4


def test_eigenvalues_trace_and_density_are_those_of_the_dense_matrix():
    x, y = batch()
    operator = curvature(model_of("mlp", "swish"), x, y)
    matrix = dense(operator)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-9)
    values = np.linalg.eigvalsh(matrix)
    np.testing.assert_allclose(largest_eigenvalues(operator, 3, rng()), values[::-1][:3], rtol=1e-4)
    estimate, error = trace(operator, 400, rng(2))
    assert abs(estimate - values.sum()) < 4 * error
    nodes, weights = spectral_density(operator, 30, rng(3), starts=4)
    assert weights.sum() == pytest.approx(1) and nodes.max() == pytest.approx(values.max(), rel=1e-3)
    assert weights @ nodes == pytest.approx(values.mean(), abs=6 * values.std() / np.sqrt(4 * len(values)))
    again = largest_eigenvalues(operator, 3, rng()), trace(operator, 400, rng(2))
    assert again[1] == (estimate, error) and np.array_equal(again[0], largest_eigenvalues(operator, 3, rng()))


def test_the_gauss_newton_matrix_has_no_negative_eigenvalue_and_misses_what_the_logits_curve():
    x, y = batch()
    model = model_of("charlm", "swish")
    hessian, gauss_newton = dense(curvature(model, x, y)), dense(curvature(model, x, y, "gauss_newton"))
    assert np.linalg.eigvalsh(gauss_newton).min() > -1e-10 > np.linalg.eigvalsh(hessian).min()
    assert np.abs(hessian - gauss_newton).max() > 1e-4


def test_a_preconditioner_gives_the_eigenvalues_of_the_product():
    x, y = batch()
    model = model_of("mlp", "gelu")
    matrix = dense(curvature(model, x, y, "gauss_newton"))
    d = torch.from_numpy(rng(4).uniform(0.5, 2, len(matrix)))
    found = largest_eigenvalues(curvature(model, x, y, "gauss_newton", d), 2, rng())
    expected = np.sort(np.linalg.eigvals(d.numpy()[:, None] * matrix).real)[::-1][:2]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
