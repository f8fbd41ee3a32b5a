"""Spoken digits: which digit a recording says (free spoken digit dataset, 3,000 recordings by six speakers).

By the data set's own rule, recordings 0 to 4 of each digit and speaker are the test set (here the validation split, 300)
and the others the training set. Each is brought to SAMPLES samples at equal loudness. An input holds the wave and its
log-mel features side by side, and an architecture takes its part: `features_of` or `wave_of`.
"""

import io
import wave
import zipfile
from typing import ClassVar

import numpy as np

from tasks.arrays import ArrayTask, Split
from tasks.data_files import DataFile, read_data_file, sha256_of

N_TEST = 5  # recordings of each digit and speaker, the first ones

RATE = 8000  # samples per second
SAMPLES = 6144  # 0.77 s; shorter recordings are padded with zeros, longer ones (2.4%) cut off
WINDOW, HOP = 256, 128  # samples of a frame, and between the starts of two
FRAMES = SAMPLES // HOP
MELS = 40
FLOOR = 1e-3  # added to the energies; 1 is that of white noise as loud as the recording


# --- recordings ---------------------------------------------------------------------------------------------------------


def read_recordings(archive: bytes) -> dict[str, bytes]:
    """File name (7_jackson_32.wav) -> content, sorted by name, of the zip file of the repository."""
    with zipfile.ZipFile(io.BytesIO(archive)) as files:
        found = {name.rpartition("/")[2]: name for name in files.namelist() if name.endswith(".wav")}
        return {name: files.read(found[name]) for name in sorted(found)}


def samples_of(content: bytes) -> np.ndarray:
    """(n,) float32 samples from -1 to 1 of a wav file with one channel of 16 bits."""
    with wave.open(io.BytesIO(content)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 2**15


def at_equal_length(samples: np.ndarray, length: int = SAMPLES) -> np.ndarray:
    """(length,) samples, cut off or padded with zeros at the end, with a root mean square of 1 before padding."""
    kept = samples[:length]
    loudness = np.sqrt(np.mean(kept**2))
    return np.pad(kept / max(loudness, 1e-8), (0, length - len(kept)))


# --- features -----------------------------------------------------------------------------------------------------------


def mel_filters(n_bands: int, n_fft: int, rate: int) -> np.ndarray:
    """(n_bands, n_fft // 2 + 1) triangular filters whose centres are evenly spaced on the mel scale.

    m(f) = 2595 log10(1 + f / 700), from 0 to half the sampling rate; each triangle reaches from its neighbour's centre to
    the other's.

    References
    ----------
    O'Shaughnessy 1987, Speech communication (the mel scale).
    Davis & Mermelstein 1980, Comparison of parametric representations for monosyllabic word recognition (triangles).
    """
    top = 2595 * np.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, n_bands + 2) / 2595) - 1)  # Hz
    low, centre, high = (edges[k : k + n_bands, None] for k in range(3))
    frequency = np.arange(n_fft // 2 + 1) * rate / n_fft
    return np.minimum((frequency - low) / (centre - low), (high - frequency) / (high - centre)).clip(min=0)


def log_mel(waves: np.ndarray) -> np.ndarray:
    """(N, FRAMES, MELS) float32: the logarithm of the energy in each band, of (N, SAMPLES) waves; frames of a Hann window."""
    from scipy import fft, signal

    window = signal.get_window("hann", WINDOW).astype(np.float32)
    filters = (mel_filters(MELS, WINDOW, RATE).T / np.sum(window**2)).astype(np.float32)
    padded = np.pad(waves, ((0, 0), (0, WINDOW - HOP)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW, axis=1)[:, ::HOP]
    return np.log(np.stack([np.abs(fft.rfft(one * window)) ** 2 @ filters for one in frames]) + np.float32(FLOOR))


def digest(archive: bytes) -> str:
    """SHA-256 of the names and contents of the recordings: that of the zip file depends on how they were packed."""
    try:
        recordings = read_recordings(archive)
    except zipfile.BadZipFile:
        return sha256_of(archive)
    return sha256_of(
        b"".join(name.encode() + b"\0" + bytes.fromhex(sha256_of(file)) for name, file in recordings.items())
    )


DIGITS = DataFile(
    "the free spoken digit dataset",
    "free-spoken-digit-dataset.zip",
    "a2e8a660492f28d9eed6270b290d26cbc5c81d6077ce87d3c0ad5adf4d4ee696",
    25_000_000,  # at most
    "https://github.com/Jakobovski/free-spoken-digit-dataset/archive/26eb9aaf76e81b692f806f9140c2d2777410d7a1.zip",
    "CHARLM_SPOKEN_DIGITS",
    digest=digest,
)


# --- the task -----------------------------------------------------------------------------------------------------------


def read_digits() -> tuple[Split, Split]:
    """The training and the validation split; inputs (n, SAMPLES + FRAMES MELS)."""
    recordings = read_recordings(read_data_file(DIGITS))
    names = [name.removesuffix(".wav").split("_") for name in recordings]  # digit, speaker, number
    waves = np.stack([at_equal_length(samples_of(content)) for content in recordings.values()])
    digits, tested = (np.array([int(name[k]) for name in names]) for k in (0, 2))
    tested = tested < N_TEST
    features = log_mel(waves)
    features = (features - features[~tested].mean(axis=(0, 1))) / features[~tested].std(axis=(0, 1))
    inputs = np.concatenate([waves, features.reshape(len(waves), -1)], axis=1)
    return Split(inputs[~tested], digits[~tested, None]), Split(inputs[tested], digits[tested, None])


class Audio(ArrayTask):
    """The spoken digits."""

    name = "audio"
    model_sizes: dict
    data_sets: ClassVar = {"spoken_digits": read_digits}

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.sha256 = DIGITS.sha256  # of the recordings: features differ by rounding between machines
        self.model_sizes |= {"samples": SAMPLES, "frames": FRAMES, "bands": MELS}

    @classmethod
    def defaults(cls, data):
        small = {"n_layer": 2, "n_head": 4, "n_embd": 64, "dropout": 0.1, "batch_size": 64, "learning_rate": 1e-3}
        return small | {"max_iters": 600, "eval_interval": 50, "curve_windows": 300, "cooldown": 0.5}
