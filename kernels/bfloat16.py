"""Attention and dropout in bfloat16 on a CPU, with few passes over memory and no floating-point mask.

Dropout levels are int16 and bfloat16 numbers have 16 bits, so one pass over 16-bit integers compares the levels and
keeps or clears the numbers' bits. Products and softmax accumulate in float32 and round once; the factors 1/sqrt(D) and
1/keep are applied to a product's float32 sums. The tests compare values and gradients with float64.
"""

import math

import torch

NUMBERS_AT_ONCE = 2**21  # attention weights computed together (4 MB); fewer cost more in calls than they save in cache
LOWEST = torch.iinfo(torch.int16).min


def dropped(x, levels, threshold, out=None):
    """x where its level is at least `threshold`, else 0.

    Parameters
    ----------
    x : bfloat16 tensor
    levels : int16 tensor
        Of x's shape.
    threshold : int
        From -2**15 (keeps all) to 2**15 - 1.
    out : bfloat16 tensor, optional
        Output; may be x.

    Returns
    -------
    bfloat16 tensor
        `out` or a new tensor; the kept numbers are not scaled.
    """
    out = torch.empty_like(x) if out is None else out
    if threshold == LOWEST:
        return out.copy_(x)
    # PyTorch's threshold_backward(bits, levels, limit) is where(levels <= limit, 0, bits), vectorized and in one pass.
    bits = x.view(torch.int16), out.view(torch.int16)
    torch.ops.aten.threshold_backward.grad_input(bits[0], levels, threshold - 1, grad_input=bits[1])
    return out


class Dropout(torch.autograd.Function):
    """`dropped`, with the kept numbers divided by their probability `keep`; .apply(x, levels, threshold, keep)."""

    @staticmethod
    def forward(ctx, x, levels, threshold, keep):
        ctx.save_for_backward(levels)
        ctx.threshold, ctx.keep = threshold, keep
        return dropped(x, levels, threshold).div_(keep)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        (levels,) = ctx.saved_tensors
        return dropped(grad, levels, ctx.threshold).div_(ctx.keep), None, None, None


class Attention(torch.autograd.Function):
    """Causal self-attention; .apply(qkv, n_head, levels, threshold, keep) has the parameters of attention.attention.

    N = B H pairs of a sequence and a head; queries, keys and values are (N, T, D), weights (N, T, T). Later keys are
    computed and masked: skipping them costs more in calls and copies than it saves.
    """

    @staticmethod
    def forward(ctx, qkv, n_head, levels, threshold, keep):
        batch, length, width = qkv.shape
        size, pairs = width // 3 // n_head, batch * n_head
        packed = qkv.view(batch, length, 3, n_head, size).permute(2, 0, 3, 1, 4).reshape(3, pairs, length, size)
        weights = qkv.new_empty(pairs, length, length)
        used = weights if levels is None else torch.empty_like(weights)
        levels = None if levels is None else levels.view(weights.shape)
        output = torch.empty_like(packed[0])
        future = torch.full((length, length), -math.inf, dtype=qkv.dtype).triu_(1)
        for some in _groups(pairs, length):
            query, key, value = packed[:, some]
            # the mask is added within the product, without another pass
            scores = torch.baddbmm(future, query, key.transpose(1, 2), alpha=1 / math.sqrt(size), out=used[some])
            torch.softmax(scores, -1, out=weights[some])
            if levels is not None:
                dropped(weights[some], levels[some], threshold, out=used[some])
            _product(used[some], value, 1 / keep, out=output[some])
        ctx.save_for_backward(packed, weights, used)
        ctx.n_head, ctx.keep = n_head, keep
        return output.view(batch, n_head, length, size).transpose(1, 2).reshape(batch, length, -1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_output):
        packed, weights, used = ctx.saved_tensors
        _, pairs, length, size = packed.shape
        shape = pairs // ctx.n_head, length, ctx.n_head, size
        grad_output = grad_output.view(shape).transpose(1, 2).reshape(pairs, length, size)
        grad_packed = torch.empty_like(packed)
        for some in _groups(pairs, length):
            query, key, value = packed[:, some]
            grad_query, grad_key, grad_value = grad_packed[:, some]
            grad_weights = torch.empty_like(weights[some])
            _product(grad_output[some], value.transpose(1, 2), 1 / ctx.keep, out=grad_weights)
            dropped(
                grad_weights, used[some].view(torch.int16), 1, out=grad_weights
            )  # only a 0 has a bit pattern below 1
            grad_scores = torch._softmax_backward_data(
                grad_weights, weights[some], -1, weights.dtype, grad_input=grad_weights
            )
            _product(grad_scores, key, 1 / math.sqrt(size), out=grad_query)
            _product(grad_scores.transpose(1, 2), query, 1 / math.sqrt(size), out=grad_key)
            _product(used[some].transpose(1, 2), grad_output[some], 1 / ctx.keep, out=grad_value)
        grad_qkv = grad_packed.view(3, shape[0], ctx.n_head, length, size).permute(1, 3, 0, 2, 4)
        return grad_qkv.reshape(shape[0], length, -1), None, None, None, None


def _product(a, b, factor, out):
    """out = factor * a @ b, batched, rounded once."""
    return torch.baddbmm(out, a, b, beta=0, alpha=factor, out=out)


def _groups(pairs, length):
    """Slices of the pairs whose (T, T) weights are computed together."""
    at_once = max(1, NUMBERS_AT_ONCE // length**2)
    return (slice(first, first + at_once) for first in range(0, pairs, at_once))
