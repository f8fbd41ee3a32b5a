"""A ground truth whose truth is known: 30 cases in five families, of which the early difference tells what will matter."""

import numpy as np

from config_cpu import ConfigCPU
from sensitivity import cases
from sensitivity.features import FEATURES


def simulated_truth(signal=True, seed=0) -> dict[str, dict]:
    """Name -> case, as truth.load gives them. Without a signal, features have nothing to do with labels."""
    rng = np.random.default_rng(seed)
    families = [*cases.FAMILIES] * 6
    return {f"simulated/{k}_{family}": _case(family, k, signal, rng) for k, family in enumerate(families)}


def _case(family, k, signal, rng):
    matters = k // 5 % 2 == 0
    effects = np.array([0.0, 0.06, 0.1, 0.03]) * matters + rng.normal(0, 0.001, 4)
    losses = 2.2 + effects[:, None] + rng.normal(0, 0.05, 4) + rng.normal(0, 0.004, (4, 4))
    seen = effects if signal else rng.permutation(4) * 0.02 * (rng.random() < 0.5)
    early = 2.6 + 0.5 * np.asarray(seen)[:, None] + rng.normal(0, 0.03, 3) + rng.normal(0, 0.02, (4, 3))
    features = dict.fromkeys(FEATURES) | {name: float(rng.normal()) for name in FEATURES[1:]}
    features["early_sd"] = float(np.log10(max(np.std(seen, ddof=1), 1e-4)) + rng.normal(0, 0.2))
    level = 0.3 + 0.05 * matters * np.arange(4)
    config = ConfigCPU(max_iters=(450, 600, 900)[k % 3]).as_dict()
    return {
        "group": "simulated",
        "architecture": cases.FAMILIES[family][0],
        "family": family,
        "n_parameters": 30_000 + 3_000 * k,
        "learning_rate": 2e-3,
        "common_loss": 2.4,
        "config": config,
        "tuning": {"0.002": {a: float(2.4 + e) for a, e in zip(cases.ACTIVATIONS, effects)}},
        "truth": {
            "losses": {a: row.tolist() for a, row in zip(cases.ACTIVATIONS, losses)},
            "relative_pd_end": _matrices(level, 4, rng),
            "relative_pd": _matrices(level, 4, rng),
            "unread": [],
            "weights_sha256": {},
        },
        "quick": {
            "losses": {a: row.tolist() for a, row in zip(cases.ACTIVATIONS, early)},
            "features": features,
            "relative_pd_end": _matrices(level, 3, rng),
        },
        "environments": [{"git_commit": None, "cpu": "simulated", "torch": "none"}],
    }


def _matrices(level, n, rng):
    found = {}
    for activation, value in zip(cases.ACTIVATIONS, level):
        upper = np.triu(value * np.exp(rng.normal(0, 0.02, (n, n))), 1)
        values = (upper + upper.T).tolist()
        found[activation] = [[None if i == j else v for j, v in enumerate(row)] for i, row in enumerate(values)]
    return found
