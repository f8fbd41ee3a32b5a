"""Ablations of built-in architectures: what makes an architecture sensitive to its activation?

    python run_all_experiments.py --architectures charlm charlm_no_norm charlm_no_residual

`--architectures all` does not include them. With weights from N(0, 0.02), a layer of 64 channels scales its input by
about 1/6; without normalization or residual connections nothing compensates for that, so the Linear layers of these
models are initialized from N(0, 1 / n_in) (LeCun et al. 1998, Efficient BackProp).
"""

import math

from torch import nn

from model import Block, CharLM


class PostNormBlock(Block):
    """Normalization after the addition instead of before the layer (Vaswani et al. 2017)."""

    def forward(self, x):  # (B, T, C) -> (B, T, C)
        x = self.norm1(x + self.attention(x))
        return self.norm2(x + self.feed_forward(x))


class BlockWithoutResidual(Block):
    """No residual connection around the feed-forward, so none around the activation.

    Attention keeps its residual connection: without it, a small model can hardly use the current character and stays at
    the loss of a unigram model for more than a hundred steps.
    """

    def forward(self, x):  # (B, T, C) -> (B, T, C)
        return self.feed_forward(self.norm2(x + self.attention(self.norm1(x))))


def charlm_of(block):
    """A constructor of CharLM with another class of block."""

    def make(config, make_activation, vocabulary_size, gated=False):
        model = CharLM(config, make_activation, vocabulary_size, gated)
        sizes = (config.n_embd, config.n_head)
        model.blocks = nn.ModuleList(
            block(*sizes, make_activation(), config.dropout, gated=gated) for _ in range(config.n_layer)
        )
        return model

    return make


def without_norm(make):
    """A constructor of an architecture without LayerNorm, initialized as by `keeping_size`."""

    def make_without(*arguments):
        model = keeping_size(make)(*arguments)
        for parent in list(model.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.LayerNorm):
                    parent.register_module(name, nn.Identity())
        return model

    return make_without


def keeping_size(make):
    """A constructor of an architecture whose Linear layers, except the head, are initialized from N(0, 1 / n_in)."""

    def make_keeping(*arguments):
        model = make(*arguments)
        for module in model.modules():
            if isinstance(module, nn.Linear) and module.bias is not None:
                module.init_std = 1 / math.sqrt(module.in_features)
        return model

    return make_keeping
