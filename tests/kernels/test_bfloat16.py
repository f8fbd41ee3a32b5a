"""Claims about bfloat16 on a CPU: its kernels round where they must, drop what their address says, and repeat their bits."""

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import randomness
from kernels import bfloat16
from kernels.attention import attention, plain_attention

ROUNDING = 2.0**-8  # the largest relative error of one rounding to bfloat16


def normal(*shape, seed=0, site="x"):
    values = randomness.generator(seed, "init", 0, site).standard_normal(shape)
    return torch.from_numpy(values).to(torch.bfloat16)


def levels_of(*shape, seed=0):
    return torch.from_numpy(randomness.dropout_levels(seed, 0, 0, math.prod(shape))).view(shape)


def output_and_gradients(attend, qkv, upstream):
    """(output, and the gradients of queries, keys and values), in qkv's type."""
    x = qkv.clone().requires_grad_()
    output = attend(x)
    output.backward(upstream.to(qkv.dtype))
    assert torch.equal(x.detach(), qkv), "attention changed its input"
    return output.detach(), *x.grad.chunk(3, dim=-1)


def distance(found, expected):
    """The root mean square of the differences, relative to that of the expected values."""
    return ((found.double() - expected).norm() / expected.norm().clamp_min(1e-12)).item()


def fused_and_exact(batch_size, n_head, length, size, probability, seed=0):
    """(in bfloat16 by the fused attention, in float64 by the plain one), from the same numbers."""
    qkv = normal(batch_size, length, 3 * n_head * size, seed=seed)
    upstream = normal(batch_size, length, n_head * size, seed=seed, site="upstream")
    threshold, keep = randomness.dropout_threshold(probability)
    levels = levels_of(batch_size, n_head, length, length, seed=seed) if probability else None
    kept = None if levels is None else (levels >= threshold).double()
    found = output_and_gradients(lambda x: attention(x, n_head, levels, threshold, keep), qkv, upstream)
    exact = output_and_gradients(lambda x: plain_attention(x, n_head, kept, keep), qkv.double(), upstream)
    return found, exact


# --- attention ------------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    batch_size=st.integers(1, 3),
    n_head=st.integers(1, 5),
    length=st.integers(1, 140),
    size=st.integers(1, 33),
    probability=st.sampled_from([0.0, 1e-9, 0.2, 0.9]),
    seed=st.integers(0, 2**20),
)
@example(batch_size=2, n_head=3, length=129, size=5, probability=0.2, seed=0)
def test_attention_is_that_of_float64_but_for_rounding(batch_size, n_head, length, size, probability, seed):
    """In a whole output or gradient, by a few roundings."""
    found, exact = fused_and_exact(batch_size, n_head, length, size, probability, seed)
    assert all(part.dtype == torch.bfloat16 for part in found)
    scale = max(part.norm() / part.numel() ** 0.5 for part in exact[1:3]).item()
    for name, ours, expected in zip(("output", "query", "key", "value"), found, exact):
        floor = 1e-2 * scale if name in ("query", "key") else 0  # their gradients can cancel to nothing
        error = (ours.double() - expected).norm().item()
        assert error <= 2 * ROUNDING * expected.norm().item() + floor * expected.numel() ** 0.5, name


def test_attention_rounds_less_than_the_plain_one_in_bfloat16():
    threshold, keep = randomness.dropout_threshold(0.2)
    qkv, upstream, levels = normal(8, 128, 3 * 128), normal(8, 128, 128, site="upstream"), levels_of(8, 4, 128, 128)
    kept = (levels >= threshold).to(torch.bfloat16)
    exact = output_and_gradients(lambda x: plain_attention(x, 4, kept.double(), keep), qkv.double(), upstream)
    plain = output_and_gradients(lambda x: plain_attention(x, 4, kept, keep), qkv, upstream)
    fused = output_and_gradients(lambda x: attention(x, 4, levels, threshold, keep), qkv, upstream)
    for one, other, expected in zip(fused, plain, exact):
        assert distance(one, expected) < distance(other, expected) < 0.01


@pytest.mark.parametrize("at_once", [1, 2 * 20**2, 7 * 20**2])
def test_how_many_heads_are_computed_together_changes_nothing(at_once, monkeypatch):
    expected, _ = fused_and_exact(3, 5, 20, 4, 0.2)
    monkeypatch.setattr(bfloat16, "NUMBERS_AT_ONCE", at_once)
    found, _ = fused_and_exact(3, 5, 20, 4, 0.2)
    for one, other in zip(found, expected):
        assert torch.equal(one, other)


@pytest.mark.parametrize("probability", [0.0, 0.2])
def test_attention_repeats_its_bits(probability):
    first, _ = fused_and_exact(4, 4, 128, 32, probability)
    for _ in range(3):
        torch.randn(1000).softmax(-1)
        again, _ = fused_and_exact(4, 4, 128, 32, probability)
        assert all(torch.equal(one, other) for one, other in zip(first, again))


@settings(max_examples=20)
@given(st.integers(2, 140), st.data())
def test_attention_does_not_see_the_future(length, data):
    """A change at one place changes nothing before it, not even by rounding, with gradients and without."""
    place = data.draw(st.integers(1, length - 1))
    qkv = normal(1, length, 3 * 2 * 4)
    other = qkv.clone()
    other[:, place:] = data.draw(st.sampled_from([100.0, -3.0, 0.0]))
    for enabled in (True, False):
        with torch.set_grad_enabled(enabled):
            before, after = attention(qkv, 2), attention(other, 2)
        assert torch.equal(after[:, :place], before[:, :place])
        assert not torch.equal(after[:, place:], before[:, place:])


def test_a_gradient_does_not_come_from_the_future():
    qkv = normal(1, 100, 3 * 2 * 4).requires_grad_()
    attention(qkv, 2)[:, :70].float().sum().backward()
    assert not qkv.grad[:, 70:].any() and qkv.grad[:, :70, 16:].all()


# --- dropout --------------------------------------------------------------------------------------------------------


@given(st.floats(0, 1, exclude_max=True), st.integers(0, 2**20), st.integers(1, 300), st.booleans())
@example(1 - 2**-17, 0, 100, False)
@example(1e-9, 0, 100, True)
def test_dropped_keeps_a_number_exactly_where_its_level_says_so(probability, seed, count, in_place):
    x, levels = normal(count, seed=seed), levels_of(count, seed=seed)
    threshold, _ = randomness.dropout_threshold(probability)
    expected = torch.where(levels >= threshold, x, 0)
    assert torch.equal(bfloat16.dropped(x, levels, threshold, out=x if in_place else None), expected)


@given(st.lists(st.integers(0, 2**16 - 1), min_size=1, max_size=50))
def test_dropped_keeps_every_bit_pattern(patterns):
    """Signs, subnormal numbers, infinities, and what is not a number."""
    bits = (torch.tensor(patterns) - 2**15).to(torch.int16)
    levels = torch.arange(len(bits), dtype=torch.int16) % 2
    found = bfloat16.dropped(bits.view(torch.bfloat16), levels, 1).view(torch.int16)
    assert torch.equal(found, bits * levels)


@settings(max_examples=30)
@given(st.sampled_from([1e-9, 0.1, 0.2, 0.9]), st.integers(1, 200), st.integers(0, 2**20))
def test_dropout_is_that_of_float64_but_for_rounding(probability, count, seed):
    threshold, keep = randomness.dropout_threshold(probability)
    x, upstream, levels = normal(count, seed=seed), normal(count, site="upstream"), levels_of(count, seed=seed)
    leaf = x.clone().requires_grad_()
    output = bfloat16.Dropout.apply(leaf, levels, threshold, keep)
    output.backward(upstream)
    factor = (levels >= threshold).double() / keep
    for found, number in ((output, x), (leaf.grad, upstream)):
        torch.testing.assert_close(found.double(), number.double() * factor, rtol=ROUNDING, atol=0)
    assert torch.equal(leaf.detach(), x)
