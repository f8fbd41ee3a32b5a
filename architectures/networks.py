"""The models that CharLM is compared with, built from the parts in model.py and others.

Every model is causal: the output at a position depends on that and earlier positions only. Each is constructed from
(config, make_activation, vocabulary_size, gated), where config.n_embd is its width C, make_activation() returns a new
activation module, and a gated activation halves the width of its input. registry.py builds them by name at CharLM's
size and draws their initial weights.

Shapes: B sequences, T characters, C channels, V characters in the vocabulary. A Linear with an `init_std` or `init_bound`
is initialized from N(0, init_std) or U(-init_bound, init_bound); other Linear and Embedding weights from
N(0, INITIAL_SD).
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from model import Attention, Block, Dropout, FeedForward

INITIAL_SD = 0.02
KERNEL = 3  # kernel size of the convolutions
DILATIONS = (1, 2, 4, 8, 16, 32)  # of successive convolutions, repeated
CONVOLUTIONS_PER_LAYER = 3
MLP_WINDOW = 16


def hidden_widths(n_in, hidden, n_out, gated):
    """(output width of the layer before the activation, input width of the layer after it).

    A gated activation halves its input; the hidden width is chosen so that the two layers keep their number of weights.
    """
    if not gated:
        return hidden, hidden
    half = round(hidden * (n_in + n_out) / (2 * n_in + n_out))
    return 2 * half, half


class MiniGPT(nn.Module):
    """A small GPT-2: learned positions, embedding dropout, pre-norm blocks, the head tied to the token embedding."""

    def __init__(self, config, make_activation, vocabulary_size, gated=False):
        super().__init__()
        width = config.n_embd
        self.token_embedding = nn.Embedding(vocabulary_size, width)
        self.position_embedding = nn.Embedding(config.block_size, width)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            Block(width, config.n_head, make_activation(), config.dropout, gated=gated) for _ in range(config.n_layer)
        )
        self.norm = nn.LayerNorm(width)
        for block in self.blocks:  # layers that add to the residual stream, 2 n_layer in all
            block.attention.projection.init_std = INITIAL_SD / math.sqrt(2 * config.n_layer)
            block.feed_forward.contract.init_std = INITIAL_SD / math.sqrt(2 * config.n_layer)

    def forward(self, tokens):  # (B, T) -> (B, T, V)
        x = self.dropout(self.token_embedding(tokens) + self.position_embedding.weight[: tokens.shape[1]])
        for block in self.blocks:
            x = block(x)
        return F.linear(self.norm(x), self.token_embedding.weight)


class FusedAttention(Attention):
    """Attention by PyTorch's fused kernel on every device, without dropout on the weights."""

    def _attend(self, qkv):  # (B, T, 3C) -> (B, T, C)
        if self.written_out:
            return super()._attend(qkv)
        query, key, value = (part.unflatten(-1, (self.n_head, -1)).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
        return F.scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 2).flatten(2)


class NanoTransformer(nn.Module):
    """A transformer without dropout and without biases, with fused attention."""

    def __init__(self, config, make_activation, vocabulary_size, gated=False):
        super().__init__()
        width, n_head = config.n_embd, config.n_head
        self.token_embedding = nn.Embedding(vocabulary_size, width)
        self.position_embedding = nn.Embedding(config.block_size, width)
        self.blocks = nn.ModuleList(
            Block(width, n_head, make_activation(), 0.0, bias=False, gated=gated) for _ in range(config.n_layer)
        )
        for block in self.blocks:
            block.attention = FusedAttention(width, n_head, 0.0, bias=False)
        self.norm = nn.LayerNorm(width, bias=False)
        self.head = nn.Linear(width, vocabulary_size, bias=False)

    def forward(self, tokens):  # (B, T) -> (B, T, V)
        x = self.token_embedding(tokens) + self.position_embedding.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class RecurrentBlock(nn.Module):
    """Pre-norm residual block: one recurrent layer, then dropout (addressed, unlike that of PyTorch's layers)."""

    def __init__(self, width, recurrence, dropout):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.recurrence = recurrence
        self.dropout = Dropout(dropout)

    def forward(self, x):  # (B, T, C) -> (B, T, C)
        states, _ = self.recurrence(self.norm(x))
        return x + self.dropout(states)


def recurrent_blocks(cell, width, n_layer, dropout):
    """A stack of LSTM or GRU layers."""
    return nn.Sequential(
        *(RecurrentBlock(width, cell(width, width, batch_first=True), dropout) for _ in range(n_layer))
    )


class HybridLM(nn.Module):
    """An LSTM, then transformer blocks over its states; half of the layers each. The LSTM encodes the positions."""

    def __init__(self, config, make_activation, vocabulary_size, gated=False):
        super().__init__()
        width = config.n_embd
        self.token_embedding = nn.Embedding(vocabulary_size, width)
        self.lstm = recurrent_blocks(nn.LSTM, width, max(config.n_layer // 2, 1), config.dropout)
        self.blocks = nn.ModuleList(
            Block(width, config.n_head, make_activation(), config.dropout, gated=gated)
            for _ in range(hybrid_blocks(config))
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary_size, bias=False)

    def forward(self, tokens):  # (B, T) -> (B, T, V)
        x = self.lstm(self.token_embedding(tokens))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def hybrid_blocks(config):
    return config.n_layer - config.n_layer // 2


class CausalConvolution(nn.Conv1d):
    """A dilated causal convolution over time: (B, T, C) -> (B, T, C')."""

    def forward(self, x):
        padding = self.dilation[0] * (self.kernel_size[0] - 1)
        return super().forward(F.pad(x.transpose(1, 2), (padding, 0))).transpose(1, 2)


class ConvolutionBlock(nn.Module):
    """Pre-norm residual block: causal convolution, the activation, Linear, dropout."""

    def __init__(self, width, dilation, activation, dropout, gated):
        super().__init__()
        before, after = hidden_widths(KERNEL * width, width, width, gated)
        self.norm = nn.LayerNorm(width)
        self.convolution = CausalConvolution(width, before, KERNEL, dilation=dilation)
        self.activation = activation
        self.contract = nn.Linear(after, width)
        self.dropout = Dropout(dropout)

    def forward(self, x):  # (B, T, C) -> (B, T, C)
        return x + self.dropout(self.contract(self.activation(self.convolution(self.norm(x)))))


class ConvLM(nn.Module):
    """Causal dilated convolutions; no recurrence, no attention, no positions."""

    def __init__(self, config, make_activation, vocabulary_size, gated=False):
        super().__init__()
        width = config.n_embd
        self.token_embedding = nn.Embedding(vocabulary_size, width)
        self.blocks = nn.ModuleList(
            ConvolutionBlock(width, dilation, make_activation(), config.dropout, gated)
            for dilation in dilations(config)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary_size, bias=False)

    def forward(self, tokens):  # (B, T) -> (B, T, V)
        x = self.token_embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def dilations(config):
    return [DILATIONS[i % len(DILATIONS)] for i in range(CONVOLUTIONS_PER_LAYER * config.n_layer)]


class OutputLayer(nn.Module):
    """Linear, the activation, dropout, the head."""

    def __init__(self, n_in, width, vocabulary_size, activation, dropout, gated):
        super().__init__()
        before, after = hidden_widths(n_in, width, vocabulary_size, gated)
        self.expand = nn.Linear(n_in, before)
        self.activation = activation
        self.dropout = Dropout(dropout)
        self.head = nn.Linear(after, vocabulary_size, bias=False)

    def forward(self, x):  # (B, T, n_in) -> (B, T, V)
        return self.head(self.dropout(self.activation(self.expand(x))))


class RecurrentLM(nn.Module):
    """LSTM or GRU layers, then an output layer with the activation."""

    def __init__(self, config, make_activation, vocabulary_size, gated=False, cell=nn.LSTM):
        super().__init__()
        width = config.n_embd
        self.token_embedding = nn.Embedding(vocabulary_size, width)
        self.recurrence = recurrent_blocks(cell, width, config.n_layer, config.dropout)
        self.norm = nn.LayerNorm(width)
        self.output = OutputLayer(width, width, vocabulary_size, make_activation(), config.dropout, gated)

    def forward(self, tokens):  # (B, T) -> (B, T, V)
        return self.output(self.norm(self.recurrence(self.token_embedding(tokens))))


class LSTMAttention(nn.Module):
    """LSTM layers, causal attention over their states, and an output layer on both."""

    def __init__(self, config, make_activation, vocabulary_size, gated=False):
        super().__init__()
        width = config.n_embd
        self.token_embedding = nn.Embedding(vocabulary_size, width)
        self.lstm = recurrent_blocks(nn.LSTM, width, config.n_layer, config.dropout)
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(width, config.n_head, config.dropout)
        self.output = OutputLayer(2 * width, width, vocabulary_size, make_activation(), config.dropout, gated)

    def forward(self, tokens):  # (B, T) -> (B, T, V)
        x = self.norm(self.lstm(self.token_embedding(tokens)))
        return self.output(torch.cat([x, self.attention(x)], dim=-1))


class ElmanLayer(nn.Module):
    """h_t = activation(W x_t + U h_(t-1) + b)."""

    def __init__(self, width, activation):
        super().__init__()
        self.input = nn.Linear(width, width)
        self.recurrent = nn.Linear(width, width, bias=False)
        self.activation = activation
        self.input.init_bound = self.recurrent.init_bound = 1 / math.sqrt(width)

    def forward(self, x):  # (B, T, C) -> (B, T, C), and the last state, as in nn.RNN
        hidden, states = torch.zeros_like(x[:, 0]), []
        for step in self.input(x).unbind(1):
            hidden = self.activation(torch.addmm(step, hidden, self.recurrent.weight.t()))
            states.append(hidden)
        return torch.stack(states, dim=1), hidden


class RNN(nn.Module):
    """Plain recurrent layers (Elman 1990), with the activation as nonlinearity."""

    def __init__(self, config, make_activation, vocabulary_size, gated=False):
        super().__init__()
        width = config.n_embd
        self.token_embedding = nn.Embedding(vocabulary_size, width)
        self.blocks = nn.Sequential(
            *(
                RecurrentBlock(width, ElmanLayer(width, make_activation()), config.dropout)
                for _ in range(config.n_layer)
            )
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary_size, bias=False)

    def forward(self, tokens):  # (B, T) -> (B, T, V)
        return self.head(self.norm(self.blocks(self.token_embedding(tokens))))


class MLP(nn.Module):
    """The concatenated embeddings of the last characters (Bengio et al. 2003), then residual feed-forward layers."""

    def __init__(self, config, make_activation, vocabulary_size, gated=False):
        super().__init__()
        width = config.n_embd
        self.window = mlp_window(config)
        self.token_embedding = nn.Embedding(vocabulary_size, max(width // 8, 1))
        self.join = nn.Linear(self.window * self.token_embedding.embedding_dim, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(config.n_layer))
        self.layers = nn.ModuleList(
            FeedForward(width, make_activation(), config.dropout, gated=gated) for _ in range(config.n_layer)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary_size, bias=False)

    def forward(self, tokens):  # (B, T) -> (B, T, V)
        x = F.pad(self.token_embedding(tokens), (0, 0, self.window - 1, 0))  # zeros before the first character
        x = self.join(x.unfold(1, self.window, 1).flatten(2))  # (B, T, E, window) -> (B, T, C)
        for norm, layer in zip(self.norms, self.layers):
            x = x + layer(norm(x))
        return self.head(self.norm(x))


def mlp_window(config):
    return min(MLP_WINDOW, config.block_size)
