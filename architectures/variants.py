"""Built-in architectures with one part taken away: what makes an architecture sensitive to its activation?

    python run_all_experiments.py --architectures charlm charlm_no_norm charlm_no_residual

They are no architectures to use, so `--architectures all` leaves them out. With weights from N(0, 0.02) a layer of 64
channels returns a sixth of what it is given; without normalisation or residual connections nothing would make up for
that, so the Linear layers of such models start from N(0, 1 / n_in) (LeCun et al. 1998, Efficient BackProp).
"""

import math

from torch import nn

from model import Block, CharLM


class PostNormBlock(Block):
    """The normalisation after the addition instead of before the layer (Vaswani et al. 2017)."""

    def forward(self, x):  # (B, T, C) -> (B, T, C)
        x = self.norm1(x + self.attention(x))
        return self.norm2(x + self.feed_forward(x))


class BlockWithoutResidual(Block):
    """No way past the feed-forward, so none past the activation.

    Attention keeps its residual connection: without it a small model can hardly see the current character, and stays at
    the loss of the characters' frequencies for its first hundred steps and more.
    """

    def forward(self, x):  # (B, T, C) -> (B, T, C)
        return self.feed_forward(self.norm2(x + self.attention(self.norm1(x))))


def charlm_of(block):
    """CharLM made of another kind of block: a function that makes it, as the registry wants."""

    def make(config, make_activation, vocabulary_size, gated=False):
        model = CharLM(config, make_activation, vocabulary_size, gated)
        sizes = (config.n_embd, config.n_head)
        model.blocks = nn.ModuleList(
            block(*sizes, make_activation(), config.dropout, gated=gated) for _ in range(config.n_layer)
        )
        return model

    return make


def without_norm(make):
    """An architecture without any LayerNorm; its Linear layers keep the size of what they are given."""

    def make_without(*arguments):
        model = keeping_size(make)(*arguments)
        for parent in list(model.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.LayerNorm):
                    parent.register_module(name, nn.Identity())
        return model

    return make_without


def keeping_size(make):
    """An architecture whose Linear layers start from N(0, 1 / n_in); the head, which has no bias, as ever."""

    def make_keeping(*arguments):
        model = make(*arguments)
        for module in model.modules():
            if isinstance(module, nn.Linear) and module.bias is not None:
                module.init_std = 1 / math.sqrt(module.in_features)
        return model

    return make_keeping
