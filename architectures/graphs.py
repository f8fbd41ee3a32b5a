"""Classifiers of the nodes of a graph: (features (N, F), adjacency (N, N), nodes (K,)) -> (K, 1, classes).

Products with the dense adjacency matrix take the place of gathering neighbours, whose sums are not deterministic on a GPU.
Each is constructed from (config, make_activation, sizes, gated), where sizes is the task's {n_features, n_classes}; n_layer
hidden layers of width n_embd, each followed by the activation, precede the output layer, which computes the asked nodes
only.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from architectures.networks import INITIAL_SD, hidden_widths
from model import Dropout

SLOPE = 0.2  # of LeakyReLU in attention scores


def _linear(n_in, n_out):
    """A Linear without bias, initialized as by Glorot & Bengio 2010."""
    layer = nn.Linear(n_in, n_out, bias=False)
    layer.init_std = math.sqrt(2 / (n_in + n_out))
    return layer


class GraphConvolution(nn.Module):
    """A X W + b (Kipf & Welling 2017)."""

    def __init__(self, n_in, n_out, n_head=1):
        super().__init__()
        self.linear = _linear(n_in, n_out)
        self.bias = nn.Parameter(torch.zeros(n_out))

    def forward(self, x, adjacency, nodes):  # (N, n_in) -> (K, n_out)
        return (adjacency if nodes is None else adjacency[nodes]) @ self.linear(x) + self.bias


class GraphAttention(nn.Module):
    """Each node's mean over itself and its neighbours, weighted by attention (Veličković et al. 2018), per head."""

    def __init__(self, n_in, n_out, n_head):
        super().__init__()
        self.n_head = n_head
        self.linear = _linear(n_in, n_out)
        self.receiver = nn.Parameter(torch.zeros(n_head, n_out // n_head))
        self.sender = nn.Parameter(torch.zeros(n_head, n_out // n_head))
        self.bias = nn.Parameter(torch.zeros(n_out))
        self.init_std = math.sqrt(2 / (n_out // n_head + 1))  # of receiver and sender

    def forward(self, x, adjacency, nodes):  # (N, n_in) -> (K, n_out)
        values = self.linear(x).unflatten(-1, (self.n_head, -1)).transpose(0, 1)  # (H, N, D)
        receiver, sender = ((values * a[:, None]).sum(-1) for a in (self.receiver, self.sender))  # (H, N)
        if nodes is not None:
            receiver, adjacency = receiver[:, nodes], adjacency[nodes]
        scores = F.leaky_relu(receiver[:, :, None] + sender[:, None], SLOPE)  # (H, K, N)
        weights = scores.masked_fill(adjacency == 0, -math.inf).softmax(-1)
        return (weights @ values).transpose(0, 1).flatten(1) + self.bias


class GraphNetwork(nn.Module):
    """Dropout, layer, activation for each hidden layer; then dropout and the output layer, with one head."""

    def __init__(self, config, make_activation, sizes, gated=False, layer=GraphConvolution):
        super().__init__()
        n_in, step = sizes["n_features"], config.n_head
        self.layers, self.activations = nn.ModuleList(), nn.ModuleList()
        for _ in range(config.n_layer):
            _, after = hidden_widths(n_in, config.n_embd, sizes["n_classes"], gated)
            after = step * max(round(after / step), 1)
            self.layers.append(layer(n_in, 2 * after if gated else after, config.n_head))
            self.activations.append(make_activation())
            n_in = after
        self.output = layer(n_in, sizes["n_classes"], 1)
        self.output.linear.init_std = INITIAL_SD  # equal probabilities at first
        self.dropouts = nn.ModuleList(Dropout(config.dropout) for _ in range(config.n_layer + 1))

    def forward(self, graph):
        x, adjacency, nodes = graph
        for dropout, layer, activation in zip(self.dropouts, self.layers, self.activations):
            x = activation(layer(dropout(x), adjacency, None))
        return self.output(self.dropouts[-1](x), adjacency, nodes)[:, None]
