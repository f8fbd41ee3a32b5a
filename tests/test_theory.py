"""The statements of docs/theory.md, each by numbers."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import metrics
from activations import get_activation
from architectures.registry import architectures_of, build_model, initialize
from config_cpu import ConfigCPU

ROOT = Path(__file__).resolve().parent.parent
THEORY = (ROOT / "docs" / "theory.md").read_text(encoding="utf-8")
TINY = ConfigCPU(n_layer=2, n_head=2, n_embd=16, block_size=12, dropout=0.5)
TEXT = architectures_of("text")
ABSORBED = {"charlm", "charlm_single_head", "minigpt", "hybridlm", "convlm", "mlp"}
GRID = torch.linspace(-4, 4, 8001, dtype=torch.float64)


def model(architecture, activation, config=TINY, seed=1):
    built = initialize(build_model(architecture, activation, config, 11), seed)
    return built.double().eval()


def tokens(length=12):
    return torch.randint(0, 11, (4, length), generator=torch.Generator().manual_seed(0))


# --- 1. offset ---


def layers_after_the_activation(network):
    """The Linear layers with a bias that receive an activation's output, untouched; and how many activations there are."""
    outputs, found, count = [], [], [0]

    def after(module, inputs, output):
        outputs.append(output)
        count[0] += 1

    def before(module, inputs):
        if any(inputs[0] is output for output in outputs) and module.bias is not None:
            found.append(module)

    handles = []
    for module in network.modules():
        if getattr(module, "is_activation", False):
            handles.append(module.register_forward_hook(after))
        elif isinstance(module, nn.Linear):
            handles.append(module.register_forward_pre_hook(before))
    with torch.no_grad():
        network(tokens())
    for handle in handles:
        handle.remove()
    return found, count[0]


@pytest.mark.parametrize("architecture", TEXT)
def test_an_offset_is_absorbed_where_the_next_operation_is_affine_with_a_bias(architecture):
    plain, centred = model(architecture, "smelu_1"), model(architecture, "smelu_1_centred")
    layers, count = layers_after_the_activation(plain)
    assert (architecture in ABSORBED) == (count > 0 and len(layers) == count)
    with torch.no_grad():
        assert (plain(tokens()) - centred(tokens())).abs().max() > 1e-6  # before the bias is moved
        for layer in layers:
            layer.bias -= layer.weight.sum(1) / 4
        difference = (plain(tokens()) - centred(tokens())).abs().max()
    if architecture in ABSORBED:
        assert difference < 1e-12
    else:
        assert difference > 1e-6


def test_the_offset_dominates_the_first_blocks_output_at_the_start():
    """Standard deviation of its constant part: c sigma sqrt(4C) = 0.113, measured 0.115 over five seeds; centred 0.013."""
    parts = {}
    for activation in ("smelu_1", "smelu_1_centred"):
        found = []
        for seed in range(42, 47):
            network = initialize(build_model("charlm", activation, ConfigCPU(), 65), seed).eval()
            outputs = []
            network.blocks[0].feed_forward.register_forward_hook(lambda m, i, output, kept=outputs: kept.append(output))
            with torch.no_grad():
                network(torch.randint(0, 65, (8, 128), generator=torch.Generator().manual_seed(0)))
            constant = outputs[0].mean((0, 1))
            found.append((float(constant.std()), float((outputs[0] - constant).std())))
        parts[activation] = np.mean(found, axis=0)
    assert 0.25 * 0.02 * math.sqrt(4 * 128) == pytest.approx(0.113, abs=5e-4)
    assert parts["smelu_1"] == pytest.approx([0.115, 0.050], abs=5e-4)
    assert parts["smelu_1_centred"] == pytest.approx([0.013, 0.050], abs=5e-4)


# --- 2. beta ---


@pytest.mark.parametrize("beta", [0.25, 0.5, 2, 4])
def test_beta_is_a_rescaling(beta):
    assert torch.allclose(
        get_activation(f"smelu_{beta}")(GRID), beta * get_activation("smelu_1")(GRID / beta), atol=1e-12
    )


def test_adamw_takes_the_same_path_for_rescaled_weights_with_rescaled_rate_and_decay():
    """w and s w, losses f(w) and f(w / s): the paths stay proportional if the rate is s times as large, the decay 1 / s."""
    s, start = 0.5, torch.tensor([0.3, -0.7], dtype=torch.float64)
    target = torch.tensor([1.0, 2.0], dtype=torch.float64)
    paths = []
    for scale in (1.0, s):
        w = (scale * start).clone().requires_grad_()
        optimizer = torch.optim.AdamW([w], lr=0.01 * scale, weight_decay=0.1 / scale, eps=1e-30)
        for _ in range(20):
            optimizer.zero_grad()
            ((w / scale - target) ** 2).sum().backward()
            optimizer.step()
        paths.append(w.detach() / scale)
    assert torch.allclose(*paths, rtol=1e-10)
    assert (paths[0] - start).abs().max() > 0.1


# --- 3. distance from ReLU ---


@pytest.mark.parametrize("beta", [0.5, 1, 3])
def test_smelu_is_at_most_a_quarter_of_beta_above_relu(beta):
    excess = get_activation(f"smelu_{beta}")(GRID) - F.relu(GRID)
    assert excess.min() >= 0 and excess.max() == pytest.approx(beta / 4, abs=1e-9)


def test_the_bound_for_an_mlp_holds_and_is_of_the_right_size():
    """Two hidden layers with the same weights, SmeLU against ReLU: the largest difference of an output."""
    generator = torch.Generator().manual_seed(3)
    layers = [torch.randn(16, 16, generator=generator, dtype=torch.float64) / 4 for _ in range(3)]
    x = 0.1 * torch.randn(500, 16, generator=generator, dtype=torch.float64)
    smelu, (first, *others) = get_activation("smelu_1"), layers
    one, other, bound = x @ first.T, x @ first.T, 0.0
    for weight in others:
        norm = float(weight.abs().sum(1).max())
        one, other = smelu(one) @ weight.T, F.relu(other) @ weight.T
        bound = norm * (bound + 0.25)
    difference = float((one - other).abs().max())
    assert 0.05 * bound < difference <= bound


def test_the_local_bound_of_a_transformers_feed_forward_holds_for_every_output():
    block = initialize(build_model("charlm", "relu", ConfigCPU(), 9), 2).double().blocks[0].feed_forward.eval()
    x = torch.randn(200, ConfigCPU().n_embd, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    with torch.no_grad():
        z, weight = block.expand(x), block.contract.weight
        excess = get_activation("smelu_1")(z) - F.relu(z)
        difference = (get_activation("smelu_1")(z) @ weight.T - F.relu(z) @ weight.T).abs()
        assert torch.allclose(block(x), F.relu(z) @ weight.T + block.contract.bias)
    bound = excess @ weight.abs().T
    assert (difference <= bound + 1e-12).all() and (bound <= weight.abs().sum(1) / 4 + 1e-12).all()
    assert (excess[z.abs() >= 1] == 0).all() and (z.abs() < 1).double().mean() > 0


# --- 4. series ---


def test_the_series_agree_as_stated():
    swish, gelu = get_activation("swish"), get_activation("gelu")
    smelu = get_activation("smelu_1_centred")
    for reach, largest in ((1.0, 0.019), (0.5, 0.0013)):
        x = GRID[GRID.abs() <= reach]
        assert float((smelu(x) - swish(x)).abs().max()) == pytest.approx(largest, rel=0.03)
    k = 4 / math.sqrt(2 * math.pi)
    assert f"= {k:.3f}" in THEORY and "at most 0.019" in THEORY and "at most 0.0013" in THEORY
    for reach, largest in ((1.0, 0.0099), (0.5, 0.0010)):
        x = GRID[GRID.abs() <= reach]
        assert float((swish(k * x) / k - gelu(x)).abs().max()) == pytest.approx(largest, abs=5e-5)
    assert "at most 0.0099 on [-1, 1] and 0.0010 on" in THEORY
    x = torch.tensor([0.02, 0.04], dtype=torch.float64)
    apart = (swish(k * x) / k - gelu(x)).abs()
    assert apart[1] / apart[0] == pytest.approx(16, rel=0.02)  # of fourth order
    assert float(swish(x[0])) == pytest.approx(float(x[0] / 2 + x[0] ** 2 / 4 - x[0] ** 4 / 48), abs=1e-11)
    root = math.sqrt(2 * math.pi)
    assert float(gelu(x[0])) == pytest.approx(float(x[0] / 2 + x[0] ** 2 / root - x[0] ** 4 / (6 * root)), abs=1e-10)


def test_where_pre_activations_leave_the_range_is_as_stated():
    entries = json.loads((ROOT / "results/reference/diagnostics/diagnostics.json").read_text())["entries"]
    shares = [
        np.mean([entries[f"pre_activations {name}_swish trial {k}"]["values"]["share_curved"] for k in range(1, 5)])
        for name in ("charlm", "mlp", "charlm_post_norm")
    ]
    text = " ".join(THEORY.split())
    for share, where in zip(shares, ("of the pre-activations lie", "in the MLP", "in CharLM with normalization")):
        assert f"{share:.0%} {where}" in text


# --- 5. Hessian and Gauss-Newton ---


def hessian_and_gauss_newton(logits_of, theta, target):
    """(H, G) of the cross-entropy of logits_of(theta), by differentiation."""
    hessian = torch.autograd.functional.hessian(lambda t: F.cross_entropy(logits_of(t)[None], target), theta)
    jacobian = torch.autograd.functional.jacobian(logits_of, theta)
    p = torch.softmax(logits_of(theta), 0)
    return hessian, jacobian.T @ (torch.diag(p) - torch.outer(p, p)) @ jacobian


def test_hessian_and_gauss_newton_are_equal_for_logistic_regression_and_not_for_a_relu_network():
    generator = torch.Generator().manual_seed(5)
    x, target = torch.randn(3, generator=generator, dtype=torch.float64), torch.tensor([1])
    theta = torch.randn(12, generator=generator, dtype=torch.float64)
    hessian, gauss_newton = hessian_and_gauss_newton(lambda t: t.view(4, 3) @ x, theta, target)
    assert torch.allclose(hessian, gauss_newton, atol=1e-12)
    theta = torch.randn(5 * 3 + 4 * 5, generator=generator, dtype=torch.float64)

    def network(t):
        return t[15:].view(4, 5) @ F.relu(t[:15].view(5, 3) @ x)

    hessian, gauss_newton = hessian_and_gauss_newton(network, theta, target)
    rest = hessian - gauss_newton
    assert rest.abs().max() > 1e-3
    assert rest[:15, :15].abs().max() < 1e-12 and rest[15:, 15:].abs().max() < 1e-12  # between layers only


# --- 6. relative PD ---


def test_relative_pd_is_the_mean_total_variation_and_below_its_bounds():
    rng = np.random.default_rng(7)
    logits = rng.normal(size=(200, 12)) * 2
    p, q = (np.exp(logits + 0.5 * rng.normal(size=logits.shape)) for _ in range(2))
    p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    tv = 0.5 * np.abs(p - q).sum(1)
    m = (p + q) / 2
    js = 0.5 * (p * np.log(p / m) + q * np.log(q / m)).sum(1)
    log_p, log_q = (np.log(side).astype(np.float32).reshape(2, 100, 12) for side in (p, q))
    found, _ = metrics.compare(log_p, log_q, np.zeros((2, 100), dtype=np.int64))
    assert found["relative_pd"] == pytest.approx(tv.mean(), rel=1e-5)
    assert (tv <= np.sqrt(2 * js)).all() and tv.mean() <= math.sqrt(2 * js.mean())
    assert (tv <= np.sqrt((p * np.log(p / q)).sum(1) / 2)).all()


def test_a_small_change_of_logits_moves_a_prediction_by_the_stated_amount():
    rng = np.random.default_rng(8)
    logits, delta = rng.normal(size=9), 1e-4 * rng.normal(size=9)
    p, q = (np.exp(z) / np.exp(z).sum() for z in (logits, logits + delta))
    stated = 0.5 * (p * np.abs(delta - p @ delta)).sum()
    assert 0.5 * np.abs(p - q).sum() == pytest.approx(stated, rel=1e-3)
    assert stated <= np.abs(delta).max()


# --- 7. perturbed derivatives ---


def gradient_and_pre_activations(network, x, y):
    """(gradient of the layers before the activation, their outputs), flattened."""
    outputs = []
    layers = [block.feed_forward.expand for block in network.blocks]
    handles = [layer.register_forward_hook(lambda _, __, output: outputs.append(output.detach())) for layer in layers]
    network.zero_grad()
    F.cross_entropy(network(x).flatten(0, 1), y.flatten()).backward()
    for handle in handles:
        handle.remove()
    return torch.cat([layer.weight.grad.flatten() for layer in layers]), torch.cat([z.flatten() for z in outputs])


def change_of(activation, size, seed):
    """(relative change of the gradient, share of changed signs, density at 0 times the mean change) when weights are perturbed."""
    network = model("charlm", activation, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randint(0, 11, (2, 64, 12), generator=generator)
    gradient, before = gradient_and_pre_activations(network, x, y)
    with torch.no_grad():
        for weight in network.parameters():
            if weight.std() > 0:
                weight += size * weight.std() * torch.randn(weight.shape, generator=generator, dtype=torch.float64)
    perturbed, after = gradient_and_pre_activations(network, x, y)
    near = 0.05 * before.std()
    density = (before.abs() < near).double().mean() / (2 * near)
    signs = ((before > 0) != (after > 0)).double().mean()
    return (
        ((perturbed - gradient).norm() / gradient.norm()).item(),
        signs.item(),
        (density * (after - before).abs().mean()).item(),
    )


def test_signs_change_as_often_as_the_density_at_zero_says():
    _, signs, expected = np.mean([change_of("relu", 1e-2, seed) for seed in (1, 2, 3)], axis=0)
    assert signs == pytest.approx(expected, rel=0.25)


@pytest.mark.parametrize(("activation", "order"), [("relu", 0.5), ("gelu", 1), ("swish", 1), ("smelu_1", 1)])
def test_a_gradients_change_is_of_the_order_stated(activation, order):
    """The slope between perturbations of 1e-4 and 1e-2, over three seeds."""
    small, large = (np.mean([change_of(activation, size, seed)[0] for seed in (1, 2, 3)]) for size in (1e-4, 1e-2))
    assert np.log10(large / small) / 2 == pytest.approx(order, abs=0.15 if order < 1 else 0.02)
    assert order == 1 or small > 20 * change_of("swish", 1e-4, 1)[0]
