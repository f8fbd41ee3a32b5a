"""Folders of predictions, as somebody who comes with their own has them."""

from pathlib import Path

import numpy as np


def place(folder: Path, files: dict, labels=None) -> Path:
    """Writes {'relu/1.npy': array, bytes or text, or a dict of arrays for an .npz} and labels.npy."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, dict):
            np.savez_compressed(path, **content)
        elif isinstance(content, np.ndarray):
            np.save(path, content)
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
    if labels is not None:
        np.save(folder / "labels.npy", labels)
    return folder


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def made_logits(noise: dict[str, float], trials: dict[str, list], n=600, n_classes=7, seed=0):
    """({variant: {trial: (n, C)}}, labels (n,)): one teacher, and noise of a size of its own for each variant."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, n_classes, n)
    teacher = rng.normal(size=(n, n_classes)) + 2 * np.eye(n_classes)[labels]
    return {
        name: {trial: teacher + size * rng.normal(size=teacher.shape) for trial in trials[name]}
        for name, size in noise.items()
    }, labels
