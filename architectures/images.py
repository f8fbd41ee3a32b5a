"""Classifiers of images: (B, channels, height, width) -> (B, 1, classes).

Each is constructed from (config, make_activation, sizes, gated), where sizes is the task's {shape, n_classes}. The
convolutions' channels are moved last for the activation, since a gated activation halves the last dimension.
"""

import math

from torch import nn

from architectures.encoder import Encoder
from architectures.networks import hidden_widths
from model import Dropout, FeedForward

# Images from this side on: the first convolution has stride 2, and patches have 4 x 4 pixels instead of 2 x 2.
LARGE = 16


def _stride(sizes):
    return 2 if sizes["shape"][-1] >= LARGE else 1


class ConvolutionBlock(nn.Module):
    """Pre-norm residual block: GroupNorm, convolution, the activation, convolution."""

    def __init__(self, width, activation, gated):
        super().__init__()
        before, after = hidden_widths(9 * width, width, 9 * width, gated)
        self.norm = nn.GroupNorm(math.gcd(8, width), width)
        self.expand = nn.Conv2d(width, before, 3, padding=1)
        self.activation = activation
        self.contract = nn.Conv2d(after, width, 3, padding=1)

    def forward(self, x):  # (B, C, H, W) -> (B, C, H, W)
        hidden = self.expand(self.norm(x)).movedim(1, -1)
        return x + self.contract(self.activation(hidden).movedim(-1, 1))


class CNN(nn.Module):
    """Residual blocks with GroupNorm (Wu & He 2018); before each but the first, a convolution halves the sides and doubles the
    width."""

    def __init__(self, config, make_activation, sizes, gated=False):
        super().__init__()
        widths = [config.n_embd * 2**level for level in range(config.n_layer)]
        self.stem = nn.Conv2d(sizes["shape"][0], widths[0], 3, stride=_stride(sizes), padding=1)
        self.down = nn.ModuleList(nn.Conv2d(w, 2 * w, 3, stride=2, padding=1) for w in widths[:-1])
        self.blocks = nn.ModuleList(ConvolutionBlock(w, make_activation(), gated) for w in widths)
        self.norm = nn.LayerNorm(widths[-1])
        self.dropout = Dropout(config.dropout)
        self.head = nn.Linear(widths[-1], sizes["n_classes"])

    def forward(self, x):
        x = self.blocks[0](self.stem(x))
        for down, block in zip(self.down, self.blocks[1:]):
            x = block(down(x))
        return self.head(self.dropout(self.norm(x.mean(dim=(2, 3)))))[:, None]


class ViT(nn.Module):
    """A vision transformer (Dosovitskiy et al. 2021): patches of pixels, an encoder, the mean over patches."""

    def __init__(self, config, make_activation, sizes, gated=False):
        super().__init__()
        channels, height, width = sizes["shape"]
        patch = 2 * _stride(sizes)
        self.patches = nn.Conv2d(channels, config.n_embd, patch, stride=patch)
        n_patches = (height // patch) * (width // patch)
        self.encoder = Encoder(config, make_activation, n_patches, sizes["n_classes"], gated)

    def forward(self, x):
        return self.encoder(self.patches(x).flatten(2).transpose(1, 2))


class ImageMLP(nn.Module):
    """All pixels in one vector, then pre-norm residual feed-forward layers."""

    def __init__(self, config, make_activation, sizes, gated=False):
        super().__init__()
        width = config.n_embd
        self.join = nn.Linear(math.prod(sizes["shape"]), width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(config.n_layer))
        self.layers = nn.ModuleList(
            FeedForward(width, make_activation(), config.dropout, gated=gated) for _ in range(config.n_layer)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, sizes["n_classes"])

    def forward(self, x):
        x = self.join(x.flatten(1))
        for norm, layer in zip(self.norms, self.layers):
            x = x + layer(norm(x))
        return self.head(self.norm(x))[:, None]
