"""Random numbers by address. Nothing here has state, so no draw can affect another.

The address of a draw is (seed, stream, step, site). It is hashed into the key of a separate generator; its parts are
never added, so seed 42 at step 1 has nothing in common with seed 43 at step 0.

Streams: `init` (site: the parameter's qualified name), `data` (the batch of a step), `dropout` (site: the dropout's
index), `probe` (draws of diagnostics), and `bit` (which bit of the initial weights to flip: the smallest possible
difference between two trials).
"""

import hashlib

import numpy as np

STREAMS = ("init", "data", "dropout", "bit", "probe")

# Incremented for a dtype whenever results change because this mapping or the arithmetic of training changes.
NUMERICS_VERSIONS = {"float32": 1, "bfloat16": 2}  # bfloat16 2: attention and dropout of kernels/bfloat16.py
COMPILED_VERSIONS = {"float32": 2, "bfloat16": 3}  # of compiled trials: one more since they are no batch of one trial

# Dropout compares 16 random bits with a threshold, so the drop probability is exact to 2**-17, about 1e-5.
DROPOUT_LEVELS = 2**16


def key(seed: int, stream: str, step: int = 0, site: int | str = 0) -> np.ndarray:
    """The 256-bit key of an address as eight 32-bit words (BLAKE2b of its text)."""
    if stream not in STREAMS:
        raise ValueError(f"no stream {stream!r}; the streams are {', '.join(STREAMS)}")
    address = f"{int(seed)}|{stream}|{int(step)}|{type(site).__name__}:{site}"
    return np.frombuffer(hashlib.blake2b(address.encode(), digest_size=32).digest(), dtype="<u4")


def _bit_generator(seed, stream, step, site):
    # SFC64 draws a 64-bit word in about 1 ns, two to four times as fast as Philox or PCG64.
    return np.random.SFC64(np.random.SeedSequence(key(seed, stream, step, site).tolist()))


def generator(seed: int, stream: str, step: int = 0, site: int | str = 0) -> np.random.Generator:
    """A new NumPy generator for this address."""
    return np.random.Generator(_bit_generator(seed, stream, step, site))


def dropout_levels(seed: int, step: int, site: int, count: int) -> np.ndarray:
    """`count` independent uniform int16 levels from -32768 to 32767, four per 64-bit word."""
    words = _bit_generator(seed, "dropout", step, site).random_raw(-(-count // 4))
    return words.astype("<u8", copy=False).view("<i2")[:count]


def dropout_threshold(probability: float) -> tuple[int, float]:
    """(level below which a value is dropped, exact probability that a value is kept).

    The drop probability is `probability` rounded to a multiple of 1/65536 (and never 1).
    """
    dropped = min(round(probability * DROPOUT_LEVELS), DROPOUT_LEVELS - 1)
    return dropped - DROPOUT_LEVELS // 2, 1 - dropped / DROPOUT_LEVELS


def numerics_version(dtype: str, compiled: bool = False) -> int:
    """The version of the numerics of plain or compiled trials in this dtype; those of equal versions are bit-identical."""
    return (COMPILED_VERSIONS if compiled else NUMERICS_VERSIONS)[dtype]


def device_key(seed: int, stream: str, step: int, site: int) -> int:
    """The first 63 bits of an address's key, the seed of a counter-based generator on a GPU."""
    words = key(seed, stream, step, site)
    return (int(words[0]) | int(words[1]) << 32) & (2**63 - 1)
