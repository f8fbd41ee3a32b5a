"""Architectures for time series: (B, T, D) -> (B, 1, K), or (B, T, K) if the task predicts at every step.

Each is causal over time, with a head on the mean over time, or on every step if the task predicts at every step. It is
made from (config, make_activation, sizes, gated); sizes describe the input and the classes. Shapes: B examples, T steps,
D values per step, C = config.n_embd channels, K classes.
"""

from torch import nn

from architectures.networks import ConvolutionBlock, OutputLayer, dilations, recurrent_blocks
from model import Block


class Positions(nn.Module):
    """Linear, plus a learned vector for each step."""

    def __init__(self, n_in, width, length):
        super().__init__()
        self.embedding = nn.Linear(n_in, width)
        self.position_embedding = nn.Embedding(length, width)

    def forward(self, x):  # (B, T, D) -> (B, T, C)
        return self.embedding(x) + self.position_embedding.weight[: x.shape[1]]


class SequenceModel(nn.Module):
    """An embedding, a body over time, and a head."""

    def __init__(self, embedding, body, width, head, each_step=False):
        super().__init__()
        self.embedding = embedding
        self.body = nn.Sequential(*body)
        self.norm = nn.LayerNorm(width)
        self.head = head
        self.each_step = each_step

    def forward(self, x):  # (B, T, D) -> (B, 1, K), or (B, T, K)
        x = self.norm(self.body(self.embedding(x)))
        return self.head(x if self.each_step else x.mean(dim=1, keepdim=True))


# --- bodies -----------------------------------------------------------------------------------------------------------


def convolutions(config, make_activation, gated):
    """Dilated causal convolutions, as in ConvLM."""
    return [
        ConvolutionBlock(config.n_embd, dilation, make_activation(), config.dropout, gated)
        for dilation in dilations(config)
    ]


# --- time series: sizes hold the shape (T, D) of an example, n_classes, and how many positions are predicted --------------


def tcn(config, make_activation, sizes, gated):
    """A temporal convolutional network (Bai et al. 2018)."""
    width = config.n_embd
    embedding, body = nn.Linear(sizes["shape"][1], width), convolutions(config, make_activation, gated)
    return SequenceModel(embedding, body, width, nn.Linear(width, sizes["n_classes"]), sizes["n_positions"] > 1)


def series_lstm(config, make_activation, sizes, gated):
    """LSTM layers, and a hidden layer with the activation before the head."""
    width = config.n_embd
    embedding = nn.Linear(sizes["shape"][1], width)
    body = recurrent_blocks(nn.LSTM, width, config.n_layer, config.dropout)
    head = OutputLayer(width, width, sizes["n_classes"], make_activation(), config.dropout, gated)
    return SequenceModel(embedding, body, width, head, sizes["n_positions"] > 1)


def series_transformer(config, make_activation, sizes, gated):
    """Causal transformer blocks, as in CharLM, with learned positions."""
    (length, n_in), width = sizes["shape"], config.n_embd
    body = [Block(width, config.n_head, make_activation(), config.dropout, gated=gated) for _ in range(config.n_layer)]
    head = nn.Linear(width, sizes["n_classes"])
    return SequenceModel(Positions(n_in, width, length), body, width, head, sizes["n_positions"] > 1)
