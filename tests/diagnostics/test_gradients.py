"""Claims about gradient diagnostics, each on a closed form or a planted truth."""

import math

import pytest
import torch
from studies import a_trial

from diagnostics.gradients import (
    Moments,
    adamw_direction,
    critical_rate,
    flat_gradient,
    gradient_statistics,
    loss_along,
    noise_and_signal,
    noise_scale,
)
from training.step import build


@pytest.fixture
def model(task):
    return build(a_trial(), task.model_sizes).eval()


@pytest.fixture
def batches(task):
    x, y = task.examples("train", a_trial().config, "cpu")
    return [(x[:4], y[:4]), (x[4:8], y[4:8])]


def test_the_gradients_of_sequences_add_up_to_those_of_batches(model, batches):
    config = a_trial().config
    seen = gradient_statistics(model, batches, config)
    each = [flat_gradient(model, x, y, config) for x, y in batches]
    assert torch.allclose(seen.mean, (each[0] + each[1]) / 2, atol=1e-7)
    assert torch.allclose(seen.mean_square, (each[0] ** 2 + each[1] ** 2) / 2, atol=1e-7)
    assert seen.norm == pytest.approx(float(((each[0] + each[1]) / 2).norm()), rel=1e-4)
    assert all(m.n == 4 and m.of_each > m.of_mean > 0 for m in seen.moments)
    assert all(p.grad is None for p in model.parameters())


def test_the_noise_scale_is_trace_over_squared_mean():
    """Gradients from N(G, S) with |G|^2 = 4 and tr(S) = 100, batches of 8: 25; a ratio in every batch would be far off."""
    generator = torch.Generator().manual_seed(1)
    mean = torch.full((50,), math.sqrt(4 / 50))
    moments = []
    for _ in range(4000):
        g = mean + math.sqrt(2) * torch.randn(8, 50, generator=generator)
        moments.append(Moments(float(g.mean(0).square().sum()), float(g.square().sum(1).mean()), 8))
    assert noise_scale(moments) == pytest.approx(25, rel=0.05)
    ratios = [noise_scale([m]) for m in moments]
    assert abs(sum(r for r in ratios if r) / len(ratios) - 25) > 10
    assert noise_scale([Moments(1.0, 9.0, 8)]) is None  # less than the noise alone would give
    variance, squared_norm = noise_and_signal(moments)
    assert variance == pytest.approx(100, rel=0.02) and squared_norm == pytest.approx(4, rel=0.1)


def test_critical_sharpness_of_a_quadratic_is_its_curvature_along_the_direction():
    """L = w'Hw/2 from w along g = Hw rises above L(w) from 2 g'g / g'Hg on."""
    h, w = torch.tensor([1.0, 10.0]), torch.tensor([3.0, -0.5])
    g = h * w
    found = critical_rate(lambda rate: float(((w - rate * g) ** 2 * h).sum() / 2), first=1e-3)
    assert 2 / found == pytest.approx(float((g * h * g).sum() / (g * g).sum()), rel=2e-3)
    assert critical_rate(lambda rate: float(((w - rate * g) ** 2 * h).sum() / 2), 50.0) == pytest.approx(
        found, rel=2e-3
    )
    assert critical_rate(lambda rate: -rate, 1e-3) == math.inf
    assert critical_rate(lambda rate: rate, 1e-3) == 0.0
    assert critical_rate(lambda rate: math.nan if rate > 0.3 else 0.0, 1e-3) == pytest.approx(0.3, rel=2e-3)


def test_a_step_along_adamws_direction_lowers_the_loss_up_to_the_critical_rate(model, batches):
    config = a_trial().config
    before = {name: p.clone() for name, p in model.named_parameters()}
    parameters = torch.cat([p.detach().double().flatten() for p in model.parameters()])
    direction = adamw_direction(gradient_statistics(model, batches, config), parameters, 0.01)
    loss = loss_along(model, direction, batches, config)
    rate = critical_rate(loss, 1e-3)
    assert 0 < rate < math.inf
    assert loss(0.5 * rate) < loss(0.0) < loss(1.05 * rate)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_with_one_batch_adamws_direction_is_the_gradients_sign():
    seen = gradient_statistics(torch.nn.Identity(), [], None)
    one = type(seen)(torch.tensor([2.0, -3.0]), torch.tensor([4.0, 9.0]), ())
    assert torch.allclose(adamw_direction(one, torch.tensor([10.0, 0.0]), 0.1), torch.tensor([2.0, -1.0]))
