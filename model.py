"""CharLM: the report's character-level transformer, and the parts that other architectures share with it.

Shapes: B sequences, T characters, C = n_embd channels, V characters in the vocabulary. A model maps (B, T) integers to
(B, T, V) logits. Initial weights and dropout masks are drawn by address (randomness.py), not from PyTorch's global
generators.
"""

import torch
from torch import nn
from torch.nn import functional as F

import randomness
from kernels import bfloat16
from kernels.attention import attention, library_attention, plain_attention


class Dropout(nn.Module):
    """Dropout whose mask is drawn by address: (seed, step), set by `address_dropout`, and this module's site.

    If a mask is passed in the buffer `given` (True: kept), it is used instead: compiled code cannot draw masks by address
    (training/compiled.py).
    """

    def __init__(self, probability):
        super().__init__()
        self.threshold, self.keep = randomness.dropout_threshold(probability)
        self.probability = probability
        self.site = None
        self.seed = None
        self.step = None
        self.register_buffer("given", None, persistent=False)

    @property
    def active(self):
        return self.training and self.probability > 0

    def levels(self, shape, device):
        """Random int16 levels of the given shape; a value is kept if its level is at least `self.threshold`."""
        if self.seed is None:
            raise RuntimeError("dropout has no address; call model.address_dropout(model, seed, step) first")
        count = torch.Size(shape).numel()
        if device.type == "cpu":
            levels = randomness.dropout_levels(self.seed, self.step, self.site, count)
            return torch.from_numpy(levels).view(shape)
        generator = torch.Generator(device).manual_seed(
            randomness.device_key(self.seed, "dropout", self.step, self.site)
        )
        return levels_on_device(shape, generator)

    def mask(self, x_shape, device, dtype):
        """1: kept, 0: dropped."""
        if self.given is not None:
            return self.given.to(dtype)
        kept = torch.empty(x_shape, device=device, dtype=dtype)
        return torch.ge(self.levels(x_shape, device), self.threshold, out=kept)

    def forward(self, x):
        if not self.active:
            return x
        if x.device.type == "cpu" and x.dtype == torch.bfloat16 and self.given is None:
            return bfloat16.Dropout.apply(x, self.levels(x.shape, x.device), self.threshold, self.keep)
        return x * self.mask(x.shape, x.device, x.dtype).div_(self.keep)

    def extra_repr(self):
        return f"{self.probability}, site={self.site}"


def levels_on_device(shape, generator):
    """Independent uniform int16 levels of the given shape on a generator's device, four per 64-bit word."""
    count = torch.Size(shape).numel()
    words = torch.empty(-(-count // 4), dtype=torch.int64, device=generator.device)
    words.random_(-(2**63), None, generator=generator)  # every bit is random
    return words.view(torch.int16)[:count].view(shape)


def number_dropouts(model):
    """Sets the site of every dropout of the model: 0, 1, 2, ... in order of registration."""
    for site, module in enumerate(m for m in model.modules() if isinstance(m, Dropout)):
        module.site = site


def address_dropout(model, seed, step):
    """Sets the address from which the model draws its dropout masks."""
    for module in model.modules():
        if isinstance(module, Dropout):
            module.seed, module.step = seed, step


class Attention(nn.Module):
    """Causal multi-head self-attention; dropout on the attention weights and on the output."""

    def __init__(self, n_embd, n_head, dropout, bias=True):
        super().__init__()
        self.n_head = n_head
        self.key = nn.Linear(n_embd, n_embd, bias=bias)
        self.query = nn.Linear(n_embd, n_embd, bias=bias)
        self.value = nn.Linear(n_embd, n_embd, bias=bias)
        self.projection = nn.Linear(n_embd, n_embd, bias=bias)
        self.weight_dropout = Dropout(dropout)
        self.output_dropout = Dropout(dropout)
        self.written_out = False  # True: plain operations on every device; compiled, and differentiated twice

    def forward(self, x):  # (B, T, C) -> (B, T, C)
        layers = (self.query, self.key, self.value)
        bias = None if self.query.bias is None else torch.cat([layer.bias for layer in layers])
        weight = torch.cat([layer.weight for layer in layers])  # one product instead of three
        return self.output_dropout(self.projection(self._attend(F.linear(x, weight, bias))))

    def _attend(self, qkv):
        batch, length, _ = qkv.shape
        shape = (batch, self.n_head, length, length)
        drop = self.weight_dropout
        if qkv.device.type == "cpu" and not self.written_out:
            levels = drop.levels(shape, qkv.device) if drop.active else None
            return attention(qkv, self.n_head, levels, drop.threshold, drop.keep if drop.active else 1.0)
        if qkv.device.type != "cpu" and not self.written_out and not torch.is_grad_enabled():
            return library_attention(qkv, self.n_head)
        kept = drop.mask(shape, qkv.device, qkv.dtype) if drop.active else None
        return plain_attention(qkv, self.n_head, kept, drop.keep)


class FeedForward(nn.Module):
    """Linear(C, 4C), the activation, Linear(4C, C), dropout.

    A gated activation combines two halves into one (Shazeer 2020); its hidden width is 2/3 of 4C, so that the number of
    parameters stays the same.
    """

    def __init__(self, n_embd, activation, dropout, bias=True, gated=False):
        super().__init__()
        hidden = round(4 * n_embd * 2 / 3) if gated else 4 * n_embd
        self.expand = nn.Linear(n_embd, 2 * hidden if gated else hidden, bias=bias)
        self.activation = activation
        self.contract = nn.Linear(hidden, n_embd, bias=bias)
        self.dropout = Dropout(dropout)

    def forward(self, x):  # (B, T, C) -> (B, T, C)
        return self.dropout(self.contract(self.activation(self.expand(x))))


class Block(nn.Module):
    """Pre-norm residual block: attention, then feed-forward."""

    def __init__(self, n_embd, n_head, activation, dropout, bias=True, gated=False):
        super().__init__()
        self.norm1 = nn.LayerNorm(n_embd, bias=bias)
        self.attention = Attention(n_embd, n_head, dropout, bias)
        self.norm2 = nn.LayerNorm(n_embd, bias=bias)
        self.feed_forward = FeedForward(n_embd, activation, dropout, bias, gated)

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.feed_forward(self.norm2(x))


class CharLM(nn.Module):
    """The report's model. The activation is applied in the feed-forward of every block.

    Parameters
    ----------
    config : Config
        n_layer, n_head, n_embd, block_size and dropout are used.
    make_activation : callable
        Called once per block; returns a new nn.Module.
    vocabulary_size : int
        V.
    gated : bool
        Whether the activation halves the width of its input.
    """

    def __init__(self, config, make_activation, vocabulary_size, gated=False):
        super().__init__()
        width = config.n_embd
        self.token_embedding = nn.Embedding(vocabulary_size, width)
        self.position_embedding = nn.Embedding(config.block_size, width)
        self.blocks = nn.ModuleList(
            Block(width, config.n_head, make_activation(), config.dropout, gated=gated) for _ in range(config.n_layer)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary_size, bias=False)

    def forward(self, tokens):  # (B, T) -> (B, T, V)
        x = self.token_embedding(tokens) + self.position_embedding.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))
