"""A transformer encoder that classifies sequences of vectors; models of several tasks embed their inputs for it.

Shapes: B examples, T positions, C = n_embd channels.
"""

from torch import nn
from torch.nn import functional as F

from model import Attention, Block


class FullAttention(Attention):
    """Multi-head self-attention of every position to every other, without dropout on the weights."""

    def _attend(self, qkv):  # (B, T, 3C) -> (B, T, C)
        query, key, value = (part.unflatten(-1, (self.n_head, -1)).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
        return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


class Encoder(nn.Module):
    """Learned positions, pre-norm blocks, and the head on the mean over positions (Dosovitskiy et al. 2021, for images).

    Parameters
    ----------
    config : Config
        n_layer, n_head, n_embd and dropout are used.
    make_activation, gated
        As for model.CharLM: the activation is applied in the feed-forward of every block.
    n_positions, n_classes : int
    """

    def __init__(self, config, make_activation, n_positions, n_classes, gated=False):
        super().__init__()
        width = config.n_embd
        self.position_embedding = nn.Embedding(n_positions, width)
        self.blocks = nn.ModuleList(
            Block(width, config.n_head, make_activation(), config.dropout, gated=gated) for _ in range(config.n_layer)
        )
        for block in self.blocks:
            block.attention = FullAttention(width, config.n_head, config.dropout)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, n_classes)

    def forward(self, x):  # (B, T, C) -> (B, 1, n_classes)
        x = x + self.position_embedding.weight
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(dim=1, keepdim=True))
