"""Images: which of ten classes an image shows.

digits: the 1,797 images of 8 x 8 pixels that scikit-learn ships (Alpaydin & Kaynak 1998, UCI; CC BY 4.0). Every third one,
those whose number is 2 modulo 3, is a validation example: 599, beside 1,198 for training.
fashion_mnist: 60,000 and 10,000 images of 28 x 28 pixels (Xiao et al. 2017, arXiv 1708.07747; MIT license), in the four
files of the original: in the folder CHARLM_FASHION_MNIST, in data/fashion-mnist/, as installed by Debian's package
dataset-fashion-mnist, or downloaded.
"""

from typing import ClassVar

import numpy as np

from tasks.arrays import ArrayTask, Split
from tasks.data_files import DataFile, import_needed, read_data_file

FASHION_MNIST_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
FASHION_MNIST = {  # name -> (SHA-256 uncompressed, bytes compressed)
    "train-images-idx3-ubyte": ("c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888", 26_421_880),
    "train-labels-idx1-ubyte": ("bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9", 29_515),
    "t10k-images-idx3-ubyte": ("5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b", 4_422_102),
    "t10k-labels-idx1-ubyte": ("0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34", 5_148),
}


def digits() -> tuple[Split, Split]:
    loaded = import_needed("sklearn.datasets", "scikit-learn", "images").load_digits()
    x, y = loaded.images.astype(np.uint8)[:, None], loaded.target.astype(np.int64)[:, None]
    validation = np.arange(len(y)) % 3 == 2
    return Split(x[~validation], y[~validation]), Split(x[validation], y[validation])


def fashion_mnist() -> tuple[Split, Split]:
    train, validation = (
        Split(idx(f"{part}-images-idx3-ubyte")[:, None], idx(f"{part}-labels-idx1-ubyte")[:, None].astype(np.int64))
        for part in ("train", "t10k")
    )
    return train, validation


def idx(name: str) -> np.ndarray:
    """The bytes of one of Fashion-MNIST's files, in their shape: after the magic number, the sizes as big-endian integers."""
    sha256, n_bytes = FASHION_MNIST[name]
    file = DataFile(
        f"Fashion-MNIST's {name}.gz",
        f"fashion-mnist/{name}.gz",
        sha256,
        n_bytes,
        f"{FASHION_MNIST_URL}/{name}.gz",
        "CHARLM_FASHION_MNIST",
        "/usr/share/datasets/fashion-mnist",
    )
    content = read_data_file(file)
    n_dimensions = content[3]
    shape = np.frombuffer(content, ">u4", n_dimensions, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * n_dimensions).reshape(shape)


class Images(ArrayTask):
    """Inputs (B, 1, height, width) from -1 to 1."""

    name = "images"
    data_sets: ClassVar = {"digits": digits, "fashion_mnist": fashion_mnist}

    @classmethod
    def defaults(cls, data):
        small = {"n_layer": 2, "n_head": 4, "n_embd": 32, "dropout": 0.1, "batch_size": 64, "learning_rate": 2e-3}
        small |= {"max_iters": 600, "eval_interval": 50, "curve_windows": 500, "cooldown": 0.5}
        larger = {"batch_size": 128, "max_iters": 2500, "eval_interval": 250, "curve_windows": 1000}
        return small | (larger if cls.data_set(data) == "fashion_mnist" else {})

    def prepare(self, x):
        return x.float() / (8 if self.label == "digits" else 127.5) - 1
