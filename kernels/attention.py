"""Causal self-attention on a CPU, with fewer passes over memory than PyTorch's general operations.

Apart from matrix products, a small model on one core spends most of its time moving attention weights, their mask and
their dropout through memory. Here attention is computed for a few heads at a time, so that the weights stay in the
cache, and only for keys that a query may attend to. `plain_attention` is the reference implementation; the tests compare
values and gradients in float64.
"""

import math

import torch
from torch.nn import functional as F

from kernels import bfloat16

QUERY_BLOCK = 64  # queries computed together, with keys up to the end of the block only
HEADS_AT_ONCE = 32  # with QUERY_BLOCK: 1 MB of float32 weights at 128 keys


def plain_attention(qkv, n_head, kept=None, keep=1.0):
    """Causal self-attention in plain operations: the reference, used on every device except the CPU.

    Parameters
    ----------
    qkv : (B, T, 3C) tensor
        Concatenated queries, keys and values.
    n_head : int
        Number of heads H; the head size D is C / H.
    kept : (B, H, T, T) tensor, optional
        Dropout mask of the attention weights: 1 kept, 0 dropped.
    keep : float
        Probability of being kept; kept weights are divided by it.

    Returns
    -------
    (B, T, C) tensor
        Concatenated heads.
    """
    batch, length, width = qkv.shape
    query, key, value = (part.unflatten(-1, (n_head, -1)).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])  # (B, H, T, T)
    future = torch.ones(length, length, dtype=torch.bool, device=qkv.device).triu(1)
    weights = scores.masked_fill(future, -math.inf).softmax(-1)
    if kept is not None:
        weights = weights * kept / keep
    return (weights @ value).transpose(1, 2).reshape(batch, length, width // 3)


def library_attention(qkv, n_head):
    """Causal self-attention by PyTorch's fused kernel, without dropout; see `plain_attention`."""
    query, key, value = (part.unflatten(-1, (n_head, -1)).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
    joined = F.scaled_dot_product_attention(query, key, value, is_causal=True)
    return joined.transpose(1, 2).reshape(qkv.shape[0], qkv.shape[1], -1)


def attention(qkv, n_head, levels=None, threshold=0, keep=1.0):
    """Causal self-attention on a CPU.

    Parameters
    ----------
    qkv, n_head, keep
        As for `plain_attention`.
    levels : (B, H, T, T) int16 tensor, optional
        Dropout levels.
    threshold : int
        A weight is kept if its level is at least this.

    Returns
    -------
    (B, T, C) tensor
    """
    if levels is None and not torch.is_grad_enabled():
        return library_attention(qkv, n_head)  # 20% faster than ours, but has no dropout on a CPU
    function = bfloat16.Attention if qkv.dtype == torch.bfloat16 else _Attention
    return function.apply(qkv, n_head, levels, threshold, keep)


def _tiles(n_pairs, length):
    """(index of a query block, its start and end, slice of head-sequence pairs), last query block first."""
    starts = range(0, length, QUERY_BLOCK)
    for index in reversed(range(len(starts))):
        start, end = starts[index], min(starts[index] + QUERY_BLOCK, length)
        for first in range(0, n_pairs, HEADS_AT_ONCE):
            yield index, start, end, slice(first, min(first + HEADS_AT_ONCE, n_pairs))


class _Attention(torch.autograd.Function):
    """N = B H pairs of a sequence and a head; arrays are (N, T, D), weights (N, queries, keys)."""

    @staticmethod
    def forward(ctx, qkv, n_head, levels, threshold, keep):
        batch, length, width = qkv.shape
        size = width // 3 // n_head
        pairs = batch * n_head
        packed = qkv.view(batch, length, 3, n_head, size).permute(2, 0, 3, 1, 4)
        packed = packed.clone(memory_format=torch.contiguous_format).view(3, pairs, length, size)  # modified below
        packed[0] /= math.sqrt(size)
        query, key, value = packed
        levels = None if levels is None else levels.view(pairs, length, length)
        output = torch.empty_like(query)
        future = torch.full((QUERY_BLOCK, QUERY_BLOCK), -math.inf, dtype=qkv.dtype).triu_(1)
        saved = [
            qkv.new_empty(pairs, min(QUERY_BLOCK, length - start), min(start + QUERY_BLOCK, length))
            for start in range(0, length, QUERY_BLOCK)
        ]
        for index, start, end, some in _tiles(pairs, length):
            scores = torch.bmm(query[some, start:end], key[some, :end].transpose(1, 2))
            scores[:, :, start:] += future[: end - start, : end - start]
            weights = saved[index][some]
            torch.softmax(scores, -1, out=weights)
            if levels is not None:
                torch.ge(levels[some, start:end, :end], threshold, out=scores).mul_(weights)
            output[some, start:end] = torch.bmm(weights if levels is None else scores, value[some, :end])
        output /= keep
        ctx.save_for_backward(packed, output, levels, *saved)
        ctx.shape, ctx.threshold, ctx.keep = (batch, n_head, length, size), threshold, keep
        return output.view(batch, n_head, length, size).transpose(1, 2).reshape(batch, length, -1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_output):
        packed, output, levels, *saved = ctx.saved_tensors
        batch, n_head, length, size = ctx.shape
        query, key, value = packed
        grad_out = grad_output.view(batch, length, n_head, size).transpose(1, 2).reshape(output.shape)
        delta = (grad_out * output).sum(-1, keepdim=True)  # sum_j P_ij dP_ij, without forming dP
        grad_packed = torch.empty_like(packed)
        grad_query, grad_key, grad_value = grad_packed
        for index, start, end, some in _tiles(batch * n_head, length):
            weights = saved[index][some]
            grad_block = grad_out[some, start:end]
            used = weights
            if levels is not None:
                used = torch.empty_like(weights)
                torch.ge(levels[some, start:end, :end], ctx.threshold, out=used).mul_(weights).mul_(1 / ctx.keep)
            grad_scores = torch.bmm(grad_block, value[some, :end].transpose(1, 2))
            grad_scores.mul_(used).addcmul_(weights, delta[some, start:end], value=-1)
            grad_query[some, start:end] = torch.bmm(grad_scores, key[some, :end])
            for total, part in (
                (grad_key, torch.bmm(grad_scores.transpose(1, 2), query[some, start:end])),
                (grad_value, torch.bmm(used.transpose(1, 2), grad_block)),
            ):
                if end == length:
                    total[some] = part
                else:
                    total[some, :end] += part
        grad_query /= math.sqrt(size)
        grad_qkv = grad_packed.view(3, batch, n_head, length, size).permute(1, 3, 0, 2, 4)
        return grad_qkv.reshape(batch, length, -1), None, None, None, None
