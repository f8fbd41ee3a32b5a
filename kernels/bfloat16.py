"""Attention and dropout in bfloat16 on a CPU: few passes over memory, and no mask in floating point.

Dropout levels are int16 and a bfloat16 number has 16 bits, so one pass of 16-bit integers compares the levels and keeps
or clears the numbers' bits. Products and softmax accumulate in float32 and round once; the factors 1/sqrt(D) and
1/keep are applied to a product's float32 sums. The tests compare values and gradients with float64.
"""

import math

import torch

NUMBERS_AT_ONCE = 2**18  # attention weights computed together: 512 KB, which stays in a core's cache


def dropped(x, levels, threshold):
    """x where its level is at least `threshold`, else 0.

    Parameters
    ----------
    x : bfloat16 tensor
    levels : int16 tensor of x's shape
    threshold : int, from -2**15 (drops nothing) to 2**15 - 1

    Returns
    -------
    bfloat16 tensor of x's shape; the kept numbers are not scaled.
    """
    if threshold == torch.iinfo(torch.int16).min:
        return x
    # "threshold_backward" is what PyTorch calls: where(levels <= limit, 0, bits), vectorized and in one pass.
    return torch.ops.aten.threshold_backward(x.view(torch.int16), levels, threshold - 1).view(torch.bfloat16)


class Dropout(torch.autograd.Function):
    """`dropped`, with the kept numbers divided by their probability `keep`; called by .apply(x, levels, threshold, keep)."""

    @staticmethod
    def forward(ctx, x, levels, threshold, keep):
        ctx.save_for_backward(levels)
        ctx.threshold, ctx.keep = threshold, keep
        return dropped(x, levels, threshold) / keep

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        (levels,) = ctx.saved_tensors
        return dropped(grad, levels, ctx.threshold) / ctx.keep, None, None, None


def _product(a, b, factor, out):
    """out = factor a b, batched, rounded once."""
    torch.baddbmm(out, a, b, beta=0, alpha=factor, out=out)


class Attention(torch.autograd.Function):
    """Causal self-attention; .apply(qkv, n_head, levels, threshold, keep) is as in attention.plain_attention.

    N = B H pairs of a sequence and a head, a few at a time; queries, keys and values are (N, T, D), weights (N, T, T).
    """

    @staticmethod
    def forward(ctx, qkv, n_head, levels, threshold, keep):
        batch, length, width = qkv.shape
        shape = batch, length, 3, n_head, width // 3 // n_head
        packed = qkv.view(shape).permute(2, 0, 3, 1, 4).reshape(3, batch * n_head, length, -1)
        weights = qkv.new_empty(batch * n_head, length, length)
        output = torch.empty_like(packed[0])
        if levels is not None:
            levels = levels.view(weights.shape)
        future = torch.full((length, length), -math.inf, dtype=qkv.dtype).triu_(1)
        for some in _groups(weights):
            query, key, value = packed[:, some]
            scores = torch.empty_like(weights[some])
            _product(query, key.transpose(1, 2), 1 / math.sqrt(shape[-1]), out=scores)
            torch.softmax(scores.add_(future), -1, out=weights[some])
            used = weights[some] if levels is None else dropped(weights[some], levels[some], threshold)
            _product(used, value, 1 / keep, out=output[some])
        ctx.save_for_backward(packed, weights, levels)
        ctx.shape, ctx.threshold, ctx.keep = shape, threshold, keep
        return output.view(batch, n_head, length, -1).transpose(1, 2).reshape(batch, length, -1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_output):
        packed, weights, levels = ctx.saved_tensors
        batch, length, _, n_head, size = ctx.shape
        grad_output = grad_output.view(batch, length, n_head, size).transpose(1, 2).reshape(packed.shape[1:])
        grad_packed = torch.empty_like(packed)
        for some in _groups(weights):
            query, key, value = packed[:, some]
            grad_query, grad_key, grad_value = grad_packed[:, some]
            used, grad_weights = weights[some], torch.empty_like(weights[some])
            _product(grad_output[some], value.transpose(1, 2), 1 / ctx.keep, out=grad_weights)
            if levels is not None:
                used = dropped(used, levels[some], ctx.threshold)
                grad_weights = dropped(grad_weights, levels[some], ctx.threshold)
            grad_scores = torch._softmax_backward_data(grad_weights, weights[some], -1, weights.dtype)
            _product(grad_scores, key, 1 / math.sqrt(size), out=grad_query)
            _product(grad_scores.transpose(1, 2), query, 1 / math.sqrt(size), out=grad_key)
            _product(used.transpose(1, 2), grad_output[some], 1 / ctx.keep, out=grad_value)
        grad_qkv = grad_packed.view(3, batch, n_head, length, size).permute(1, 3, 0, 2, 4)
        return grad_qkv.reshape(batch, length, -1), None, None, None, None


def _groups(weights):
    """Slices of the pairs whose (T, T) weights are computed together."""
    at_once = max(1, NUMBERS_AT_ONCE // weights[0].numel())
    return (slice(first, first + at_once) for first in range(0, len(weights), at_once))
