"""Claims about what the next layer can absorb, and about where activations act."""

import pytest
import torch
from studies import a_trial

from activations import get_activation
from architectures.registry import build_model
from diagnostics.alignment import aligned_distance, largest_distance, observed_inputs, share_behind


def z(scale, n=4000):
    return scale * torch.randn(n, 3, generator=torch.Generator().manual_seed(0)).double()


def test_an_offset_and_a_factor_count_as_nothing_and_noise_counts_as_its_share():
    u = z(1.0)
    assert aligned_distance(u, 3 - 2 * u) == pytest.approx(0, abs=1e-6)
    noise = torch.randn(4000, 3, generator=torch.Generator().manual_seed(1)).double()
    assert aligned_distance(u, u + noise) ** 2 == pytest.approx(0.5, abs=0.03)
    assert aligned_distance(u, torch.zeros_like(u)) == 0.0


def test_on_small_inputs_swish_is_smelu_and_relu_is_neither():
    """SmeLU_1(x) - 1/4 and Swish agree to the third order; ReLU keeps its kink at every scale."""
    small, large = [z(0.1)], [z(4.0)]
    assert largest_distance(small, ["swish", "smelu_1"]) < 1e-3
    assert largest_distance(small, ["swish", "relu"]) > 0.4
    assert largest_distance(large, ["swish", "smelu_1"]) > 10 * largest_distance(small, ["swish", "smelu_1"])
    assert largest_distance(large, ["smelu_1_centred", "smelu_1"]) == pytest.approx(0, abs=1e-6)
    assert largest_distance([torch.randn(9, 4).double()], ["swiglu", "relu"]) is None


def test_the_inputs_seen_are_those_of_every_activation(task):
    config = a_trial().config
    x, _ = task.examples("train", config, "cpu")
    model = build_model("charlm", "gelu", config, task.model_sizes)
    inputs, calls = observed_inputs(model, x[:2], config)
    assert (
        calls == config.n_layer
        and [part.shape for part in inputs] == [(2 * config.block_size, 4 * config.n_embd)] * calls
    )
    recurrent = build_model("rnn", "gelu", config, task.model_sizes)
    inputs, calls = observed_inputs(recurrent, x[:2], config)
    assert calls == config.n_layer * config.block_size and len(inputs) == config.n_layer


def test_the_parameters_behind_an_activation_are_those_that_it_alone_connects(task):
    config = a_trial().config
    x, y = (part[:2] for part in task.examples("train", config, "cpu"))
    model = build_model("charlm", "relu", config, task.model_sizes)
    behind = sum(
        p.numel() for block in model.blocks for m in (block.feed_forward.expand, block.norm2) for p in m.parameters()
    )
    assert share_behind(model, x, y, config) == pytest.approx(behind / sum(p.numel() for p in model.parameters()))
    everything_but_the_head = build_model("tinylstm", "relu", config, task.model_sizes)
    head = everything_but_the_head.output.head.weight.numel() / sum(
        p.numel() for p in everything_but_the_head.parameters()
    )
    assert share_behind(everything_but_the_head, x, y, config) == pytest.approx(1 - head)
    assert get_activation("relu").is_activation
