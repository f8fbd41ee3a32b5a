"""Claims about lines between models: closed forms of a barrier, and permuted copies that weight matching finds again."""

import copy

import numpy as np
import pytest
import torch
from studies import a_trial

from architectures.registry import build_model, initialize
from diagnostics.connectivity import along_line, barrier, interpolated, matched
from tasks.base import cross_entropy

CONFIG = a_trial().config.replace(n_layer=2, n_head=2, n_embd=8, block_size=6)
TOKENS = torch.randint(5, (3, 7), generator=torch.Generator().manual_seed(0))


def charlm(seed, architecture="charlm"):
    model = initialize(build_model(architecture, "gelu", CONFIG, 5), seed).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.3 * torch.randn(p.shape, generator=generator)
    return model


def loss(model):
    with torch.no_grad():
        return float(cross_entropy(model(TOKENS[:, :-1]), TOKENS[:, 1:]))


def trained(seed, architecture="charlm", steps=80):
    model = charlm(seed, architecture)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        cross_entropy(model(TOKENS[:, :-1]), TOKENS[:, 1:]).backward()
        optimizer.step()
    return model


def permuted(model, seed):
    """The same function with its residual channels, heads and hidden units in another order."""
    model, rng = copy.deepcopy(model), np.random.default_rng(seed)
    residual = torch.from_numpy(rng.permutation(8))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if (
                "embedding" in name
                or name == "head.weight"
                or any(k in name for k in ("query.w", "key.w", "value.w", "expand.w"))
            ):
                p.copy_(p[:, residual])
            elif "norm" in name or "projection" in name or "contract" in name:
                p.copy_(p[residual])
        for block in model.blocks:
            hidden = torch.from_numpy(rng.permutation(32))
            heads = torch.from_numpy(rng.permutation(2))
            rows = (heads[:, None] * 4 + torch.arange(4)).flatten()
            for layer in (block.attention.query, block.attention.key, block.attention.value):
                layer.weight.copy_(layer.weight[rows])
                if layer.bias is not None:
                    layer.bias.copy_(layer.bias[rows])
            block.attention.projection.weight.copy_(block.attention.projection.weight[:, rows])
            block.feed_forward.expand.weight.copy_(block.feed_forward.expand.weight[hidden])
            if block.feed_forward.expand.bias is not None:
                block.feed_forward.expand.bias.copy_(block.feed_forward.expand.bias[hidden])
            block.feed_forward.contract.weight.copy_(block.feed_forward.contract.weight[:, hidden])
    return model


def test_the_barrier_of_a_parabola_is_its_height_over_the_chord():
    a = np.linspace(0, 1, 11)
    assert barrier(3 - 2 * a) == pytest.approx(0)
    assert barrier(1 + a + 4 * a * (1 - a)) == pytest.approx(1)
    assert barrier((a - 0.5) ** 2) == pytest.approx(0), "a valley is no barrier"


def test_the_ends_of_the_line_are_the_two_models():
    one, other = charlm(1), charlm(2)
    path = along_line(one, other, loss)
    assert len(path) == 11 and path[[0, -1]] == pytest.approx([loss(one), loss(other)])
    assert torch.equal(interpolated(one, other, 0.0).head.weight, one.head.weight)


@pytest.mark.parametrize("architecture", ["charlm", "minigpt", "nanotransformer"])
def test_a_permuted_copy_is_the_same_function_far_away_and_matching_brings_it_back(architecture):
    model = trained(1, architecture)
    copy_ = permuted(model, 5)
    assert loss(copy_) == pytest.approx(loss(model), abs=1e-6)
    assert barrier(along_line(model, copy_, loss)) > 0.1
    found = matched(copy_, model)
    for (name, p), q in zip(found.named_parameters(), model.parameters()):
        assert torch.allclose(p, q), name


def test_matching_two_trained_models_changes_no_prediction_and_brings_them_nearer():
    one, other = charlm(1), charlm(2)
    found = matched(other, one)
    assert torch.allclose(found(TOKENS[:, 1:]), other(TOKENS[:, 1:]), atol=1e-5)

    def distance(m):
        return sum(float((p - q).detach().square().sum()) for p, q in zip(m.parameters(), one.parameters()))

    assert distance(found) < distance(other)


def test_an_architecture_whose_symmetries_are_unknown_is_refused():
    with pytest.raises(ValueError, match="knows the symmetries of CharLM, MiniGPT and NanoTransformer"):
        matched(build_model("mlp", "relu", CONFIG, 5), charlm(1))


def test_a_gated_activation_is_refused():
    gated = build_model("charlm", "swiglu", CONFIG, 5)
    with pytest.raises(ValueError, match="symmetries of gated activations"):
        matched(gated, copy.deepcopy(gated))
