"""Architectures for recordings: (B, samples + frames bands) -> (B, 1, K); see tasks/audio.py for the input.

Each takes either the wave or the log-mel features, and is made from (config, make_activation, sizes, gated); sizes hold
the samples of the wave, the frames, the bands of a frame, and n_classes. Shapes: B examples, K classes, C channels.
"""

from torch import nn

from architectures.encoder import Encoder
from architectures.images import CNN
from architectures.networks import hidden_widths
from architectures.sequences import SequenceModel, convolutions

STRIDE = 64  # of the first convolution over the wave: 8 ms at 8 kHz


class WaveFilters(nn.Module):
    """A convolution over the wave whose windows overlap by half, the activation, Linear."""

    def __init__(self, width, activation, gated):
        super().__init__()
        before, after = hidden_widths(2 * STRIDE, width, width, gated)
        self.convolution = nn.Conv1d(1, before, 2 * STRIDE, STRIDE, padding=STRIDE // 2)
        self.activation = activation
        self.contract = nn.Linear(after, width)

    def forward(self, wave):  # (B, samples) -> (B, samples / STRIDE, C)
        return self.contract(self.activation(self.convolution(wave[:, None]).transpose(1, 2)))


class OfFeatures(nn.Module):
    """Layers on the features of a recording, (B, frames, bands)."""

    def __init__(self, sizes, *layers):
        super().__init__()
        self.samples, self.shape = sizes["samples"], (sizes["frames"], sizes["bands"])
        self.layers = nn.Sequential(*layers)

    def forward(self, x):  # -> (B, 1, K)
        return self.layers(x[:, self.samples :].unflatten(1, self.shape))


def audio_cnn(config, make_activation, sizes, gated):
    """The CNN of images on the features; at half the width, since it doubles the width between blocks."""
    image = {"shape": (1, sizes["frames"], sizes["bands"]), "n_classes": sizes["n_classes"]}
    half = config.replace(n_embd=max(config.n_embd // 2, 1), n_head=1)
    return OfFeatures(sizes, nn.Unflatten(1, (1, sizes["frames"])), CNN(half, make_activation, image, gated))


def audio_transformer(config, make_activation, sizes, gated):
    """A transformer encoder over the frames."""
    encoder = Encoder(config, make_activation, sizes["frames"], sizes["n_classes"], gated)
    return OfFeatures(sizes, nn.Linear(sizes["bands"], config.n_embd), encoder)


class OfWave(SequenceModel):
    """A sequence model of the wave of a recording."""

    def __init__(self, samples, *parts):
        super().__init__(*parts)
        self.samples = samples

    def forward(self, x):  # -> (B, 1, K)
        return super().forward(x[:, : self.samples])


def audio_wave(config, make_activation, sizes, gated):
    """Dilated causal convolutions over filters of the raw wave (van den Oord et al. 2016)."""
    width = config.n_embd
    filters = WaveFilters(width, make_activation(), gated)
    body = convolutions(config, make_activation, gated)
    return OfWave(sizes["samples"], filters, body, width, nn.Linear(width, sizes["n_classes"]))
