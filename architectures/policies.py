"""Policies for control: a policy and a value function, separate networks with the same activation.

Made from (config, make_activation, sizes, gated); sizes: (numbers of an observation D, actions A).
"""

import math

from torch import nn

from architectures.networks import hidden_widths

WIDE = 4  # how many times as wide the wide policy is


class PolicyMLP(nn.Module):
    """Two multilayer perceptrons of n_layer hidden layers: log-odds of the actions, and the value of a state."""

    def __init__(self, config, make_activation, sizes, gated=False, times=1):
        super().__init__()
        n_in, n_actions = sizes
        widths = (n_in, times * config.n_embd, config.n_layer, make_activation, gated)
        self.policy = perceptron(*widths, n_out=n_actions, gain=0.01)  # the first policy is nearly uniform
        self.critic = perceptron(*widths, n_out=1, gain=1.0)

    def forward(self, x):  # (B, D) -> (B, 1, A)
        return self.policy(x)[:, None]

    def value(self, x):  # (B, D) -> (B,)
        return self.critic(x)[:, 0]


def perceptron(n_in, width, n_layer, make_activation, gated, n_out, gain):
    """Hidden layers initialized for a constant scale (He et al. 2015), and an output layer of the given gain."""
    layers = []
    for _ in range(n_layer):
        before, after = hidden_widths(n_in, width, width, gated)
        layers += [_linear(n_in, before, math.sqrt(2)), make_activation()]
        n_in = after
    return nn.Sequential(*layers, _linear(n_in, n_out, gain))


def _linear(n_in, n_out, gain):
    layer = nn.Linear(n_in, n_out)
    layer.init_std = gain / math.sqrt(n_in)
    return layer
