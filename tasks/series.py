"""Time series of the UCR and UEA archives, as the package aeon ships them: classification, or the next value in a bin.

The files are read from aeon's wheel; aeon itself is not installed. Training and test split (here the validation split)
are the archives' own. Values are standardized by mean and standard deviation of the training split, per dimension.
"""

import io
import zipfile
from functools import partial
from typing import ClassVar

import numpy as np

from tasks.arrays import ArrayTask, Split
from tasks.data_files import DataFile, read_data_file

AEON = DataFile(
    "the wheel of aeon 1.6.0",
    "aeon-1.6.0-py3-none-any.whl",
    "d05227086706f80111ac5fee8de4d5d3115bb3bcfd1c786c8629393055816409",
    6_421_000,
    "aeon==1.6.0",
    "CHARLM_AEON",
)
CLASSIFIED = ("JapaneseVowels_eq", "ItalyPowerDemand", "OSULeaf", "ArrowHead", "GunPoint", "BasicMotions")
PREDICTED = "OSULeaf"  # its next value
N_BINS = 16
N_STEPS = 128  # of a series, the first ones, after each of which the next value is predicted


def read_ts(text: str) -> tuple[np.ndarray, np.ndarray]:
    """(values (n, T, D), classes (n,) int64) of a .ts file of series of equal length.

    After the line @data each line is one series: its dimensions, separated by colons, then its class, whose names the line
    @classLabel lists.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    start = next(k for k, line in enumerate(lines) if line.lower() == "@data")
    names = next(line.split()[2:] for line in lines if line.lower().startswith("@classlabel"))
    rows = [line.split(":") for line in lines[start + 1 :]]
    values = [[np.array(dimension.split(","), float) for dimension in row[:-1]] for row in rows]
    return np.array(values).transpose(0, 2, 1), np.array([names.index(row[-1]) for row in rows])


def read_classified(name: str) -> tuple[Split, Split]:
    """Training and validation split of a data set: the series (n, T, D) and their classes."""
    (x, y), (x_test, y_test) = _read(name)
    return Split(x, y[:, None]), Split(x_test, y_test[:, None])


def read_next_value(name: str) -> tuple[Split, Split]:
    """The first N_STEPS values of each series (n, T, 1), and the bin of the value that follows each (n, T).

    The bins hold equally many values of the training split.
    """
    (x, _), (x_test, _) = _read(name)
    x, x_test = (values[:, : N_STEPS + 1] for values in (x, x_test))
    edges = np.quantile(x, np.arange(1, N_BINS) / N_BINS)
    train, validation = (Split(v[:, :-1], np.searchsorted(edges, v[:, 1:, 0], side="right")) for v in (x, x_test))
    return train, validation


def _read(name):
    """((standardized values, classes) of the training split, and of the test split)."""
    folder = f"aeon/datasets/data/{name.removesuffix('_eq')}"  # _eq: made equally long
    with zipfile.ZipFile(io.BytesIO(read_data_file(AEON))) as wheel:
        texts = [wheel.read(f"{folder}/{name}_{part}.ts").decode() for part in ("TRAIN", "TEST")]
    train, test = (read_ts(text) for text in texts)
    mean, sd = train[0].mean(axis=(0, 1)), train[0].std(axis=(0, 1))
    return tuple((((values - mean) / sd).astype(np.float32), classes) for values, classes in (train, test))


class Series(ArrayTask):
    """One of the data sets."""

    name = "series"
    model_sizes: dict
    data_sets: ClassVar = {
        **{data: partial(read_classified, data) for data in CLASSIFIED},
        f"{PREDICTED}_next": partial(read_next_value, PREDICTED),
    }

    @classmethod
    def defaults(cls, data):
        small = {"n_layer": 2, "n_head": 4, "n_embd": 32, "dropout": 0.2, "batch_size": 32, "learning_rate": 2e-3}
        return small | {"max_iters": 400, "eval_interval": 25, "curve_windows": 200, "cooldown": 0.5}

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.model_sizes["n_positions"] = self.splits["train"].targets.shape[1]
