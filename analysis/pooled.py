"""What does relative PD depend on most? The activations of several studies pooled (exploratory: nothing was fixed beforehand).

Each cell, one architecture with one activation in one study, is one row: its mean final loss and relative PD, architecture,
activation, learning rate and training steps. `explained` regresses log relative PD on these factors.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.results import Cell, Study, estimate

ALL_STREAMS = ["init", "data", "dropout"]


@dataclass(frozen=True)
class Row:
    """A cell. loss: mean final validation loss, nats; relative_pd: mean over its pairs."""

    cell: Cell
    architecture: str
    activation: str
    learning_rate: float
    steps: int
    loss: float
    relative_pd: float


def rows(studies: Sequence[Study]) -> list[Row]:
    """The cells with a pair, of studies under the matched protocol in which all sources of randomness vary."""
    found = []
    for cell in (cell for study in studies for cell in study.cells):
        identity = cell.result["identity"]
        loss, pd = (estimate(cell, name).mean for name in ("val_loss", "relative_pd"))
        if (
            identity["protocol"] == "matched"
            and identity["vary"] == ALL_STREAMS
            and loss is not None
            and pd is not None
        ):
            config = identity["config"]
            names = (cell.architecture, cell.activation)
            found.append(Row(cell, *names, config["learning_rate"], config["max_iters"], loss, pd))
    return found


def _polynomial(values):
    centred = values - values.mean()
    return np.column_stack([centred, centred**2])


def _dummies(values):
    levels = sorted(set(values))
    return np.array([[float(value == level) for level in levels[1:]] for value in values]).reshape(len(values), -1)


FACTORS: dict[str, Callable[[Sequence[Row]], np.ndarray]] = {
    "validation loss": lambda table: _polynomial(np.array([row.loss for row in table])),
    "architecture": lambda table: _dummies([row.architecture for row in table]),
    "activation": lambda table: _dummies([row.activation for row in table]),
    "learning rate": lambda table: _polynomial(np.log([row.learning_rate for row in table])),
    "training steps": lambda table: np.log([row.steps for row in table])[:, None],
}


def r_squared(table: Sequence[Row], factors: Sequence[str]) -> float:
    """The share of the variance of log relative PD that a least-squares fit on the factors explains, in [0, 1]."""
    y = np.log([row.relative_pd for row in table])
    design = np.column_stack([np.ones(len(y)), *(FACTORS[name](table) for name in factors)])
    fitted = design @ np.linalg.lstsq(design, y, rcond=None)[0]
    return float(1 - ((y - fitted) ** 2).sum() / ((y - y.mean()) ** 2).sum())


def explained(table: Sequence[Row], resamples: int = 500, seed: int = 0) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Factor -> R^2 of the factor alone, and how much R^2 of all factors loses without it.

    Parameters
    ----------
    table : sequence of Row
    resamples : int
        Bootstrap resamples of the rows.

    Returns
    -------
    dict
        Each value is (estimate, low, high), the latter two the 2.5% and 97.5% quantiles over the resamples.
    """
    rng = np.random.default_rng(seed)
    samples = [list(table)] + [[table[k] for k in rng.integers(len(table), size=len(table))] for _ in range(resamples)]
    found = {}
    for name in FACTORS:
        others = [other for other in FACTORS if other != name]
        alone, unique = (
            np.array([share(sample) for sample in samples])
            for share in (
                lambda sample, name=name: r_squared(sample, [name]),
                lambda sample, others=others: r_squared(sample, list(FACTORS)) - r_squared(sample, others),
            )
        )
        found[name] = _with_quantiles(alone), _with_quantiles(unique)
    return found


def _with_quantiles(values):
    return np.array([values[0], *np.quantile(values[1:], (0.025, 0.975))])
