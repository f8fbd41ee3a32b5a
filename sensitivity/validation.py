"""Validation of the quick test on the ground truth: which predictor ships, its error rate, and its savings.

report = validate(truth.table(truth.load(), "loss"))
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import logit

from sensitivity import cases, labels, scores
from sensitivity.features import FEATURES
from sensitivity.predictor import (
    CLIP,
    Fitted,
    OutOfFold,
    family_mean,
    fit,
    fit_chosen,
    leave_one_family_out,
    log_score,
    prevalence,
    rescaled,
)
from sensitivity.truth import COLUMNS, Table

PREDICTOR, BRIEFLY = "predictor", "train all briefly"
RESAMPLES = 200


@dataclass(frozen=True, eq=False)
class Shipped:
    """The test of one outcome: its kind (PREDICTOR or BRIEFLY), fitted on all cases, and its out-of-fold answers."""

    kind: str
    features: np.ndarray
    fitted: Fitted
    out_of_fold: OutOfFold
    table: Table

    @property
    def score(self) -> float:
        """Its log score on families that it was fitted without."""
        return log_score(self.out_of_fold.p, self.table.q)

    @property
    def fails(self) -> bool:
        """Whether it predicts no better than a coin. Such a test decides nothing (added when the labels were known)."""
        return self.score >= math.log(2)

    def row(self, features: Sequence[float], briefly: float) -> np.ndarray:
        """(1, F) input of the regression for a new model."""
        return np.array([features]) if self.kind == PREDICTOR else early_column(np.array([briefly]))


def early_column(p: np.ndarray) -> np.ndarray:
    return logit(np.clip(p, CLIP, 1 - CLIP))[:, None]


def shipped(table: Table) -> Shipped:
    """The better of the predictor and rescaled "train all briefly", by leave-one-family-out log score; ties: the latter."""
    designs = {BRIEFLY: (early_column(table.briefly), {BRIEFLY: [0]}), PREDICTOR: (table.features, COLUMNS)}
    found = {kind: leave_one_family_out(x, table.q, table.families, sets) for kind, (x, sets) in designs.items()}
    kind = min(found, key=lambda name: log_score(found[name].p, table.q))
    features, sets = designs[kind]
    return Shipped(kind, features, fit_chosen(features, table.q, table.families, sets), found[kind], table)


def probability(test: Shipped, row: np.ndarray, family: str) -> tuple[float, float, float]:
    """(P, low, high) for a new model; 95% interval by refitting on families drawn with replacement.

    For a family that is not in the ground truth, the interval is widened by the largest error, in either direction, of
    the mean probability of a left-out family.
    """
    t, model = test.table, test.fitted.model

    def refitted(index):
        again = fit(test.features[index], t.q[index], model.columns, test.fitted.chosen[1])
        return float(again.predict(row)[0])

    p = float(model.predict(row)[0])
    low, high = scores.over_families(refitted, t.families, RESAMPLES) or (0.0, 1.0)
    if family not in t.families:
        errors = [(t.q - test.out_of_fold.p)[t.families == name].mean() for name in np.unique(t.families)]
        low, high = low + min(0.0, *errors), high + max(0.0, *errors)
    return p, max(0.0, min(low, p)), min(1.0, max(high, p))


def validate(table: Table, permutations: int = 199) -> dict:
    """All values of the protocol's section "Scores" for one outcome, by name."""
    test = shipped(table)
    q, families = table.q, table.families
    behind = [FEATURES.index("share_behind")]
    rivals = {
        "predictor": leave_one_family_out(table.features, q, families, COLUMNS).p,
        "properties alone": leave_one_family_out(table.features, q, families, {"properties": COLUMNS["properties"]}).p,
        "train all briefly": table.briefly,
        "train all briefly, rescaled": rescaled(table.briefly, q, families),
        "parameters behind the activation": leave_one_family_out(table.features, q, families, {"behind": behind}).p,
        "family's other cases": family_mean(q, families),
        "prevalence": prevalence(q, families),
    }
    known, error = scores.decided(test.out_of_fold.answers, q)
    wrong_families = {str(f) for f in np.unique(families) if error[known & (families == f)].sum() >= 0.5}
    decided_families = {str(f) for f in families[known]}
    return {
        "shipped": test.kind,
        "fails": test.fails,
        "chosen": test.fitted.chosen,
        "thresholds": (test.fitted.low, test.fitted.high),
        "chosen_without": test.out_of_fold.chosen,
        "p": test.out_of_fold.p,
        "n": len(q),
        "n_families": len(np.unique(families)),
        "prevalence": float(q.mean()),
        "prevalence_interval": scores.over_families(lambda k: float(q[k].mean()), families),
        "rivals": {name: _scored(p, q, families) for name, p in rivals.items()},
        "reliability": scores.reliability(test.out_of_fold.p, q),
        "decided": int(known.sum()),
        "answers": {
            name: test.out_of_fold.answers.count(name) for name in ("matters", "does not matter", "inconclusive")
        },
        "skipped": np.array(test.out_of_fold.answers) == "does not matter",
        "error": float(error[known].mean()) if known.any() else None,
        "error_limit_cases": scores.error_limit(float(error.sum()), int(known.sum())),
        "error_limit_families": scores.error_limit(len(wrong_families), len(decided_families)),
        "permutation_p": scores.permutation_p(test.features, q, families, _sets(test), permutations),
    }


def _sets(test):
    return COLUMNS if test.kind == PREDICTOR else {BRIEFLY: [0]}


def _scored(p, q, families):
    """{score: (value, 95% interval over families or None)}."""
    found = {"log score": log_score, "Brier": scores.brier, "AUROC": scores.auroc}
    return {
        name: (score(p, q), scores.over_families(lambda k, score=score: score(p[k], q[k]), families))
        for name, score in found.items()
    }


# --- what it saves, and what it costs -----------------------------------------------------------------------------------


def choices(known: Mapping[str, dict], table: Table, skipped: np.ndarray) -> dict[str, tuple[float, float]]:
    """Way to choose an activation -> (expected excess loss in nats, share of the full comparison's training steps saved).

    The full comparison trains four trials of each activation. Cases in which an activation diverged are left out.
    """
    quick = 1 / cases.QUICK_SHARE * cases.TRIALS["quick"] / cases.TRIALS["truth"]
    tuning = 0.5 / cases.TUNING_SHARE / cases.TRIALS["truth"]  # two activations, one trial
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in WAYS}
    for name, skip in zip(table.names, skipped):
        case = known[name]
        losses = case["truth"]["losses"]
        if any(loss is None for row in losses.values() for loss in row):
            continue
        values, activations = np.array(list(losses.values()), dtype=float), list(losses)
        cost = [labels.regret(values, k, cases.LOSS_MARGIN) for k in range(len(activations))]
        default = activations.index(cases.DEFAULT_ACTIVATION)
        full = int(values.mean(1).argmin())
        means = [np.mean([x for x in case["quick"]["losses"][a] if x is not None] or [np.inf]) for a in activations]
        order = np.argsort(means)
        tuned = case["tuning"][str(case["learning_rate"])]
        halved = min(order[:2], key=lambda k: np.inf if tuned[activations[k]] is None else tuned[activations[k]])
        followed = (cost[default], 1 - quick) if skip else (cost[full], -quick)
        rows = (
            (cost[default], 1.0),
            (cost[order[0]], 1 - quick),
            (cost[halved], 1 - quick - tuning),
            followed,
            (cost[full], 0.0),
        )
        for way, row in zip(WAYS, rows):
            found[way].append((float(row[0]), float(row[1])))
    return {way: tuple(np.mean(rows, axis=0)) for way, rows in found.items() if rows}


FOLLOWED = "quick test, full comparison unless it says no"
WAYS = (
    "ReLU without comparing",
    "best of the quick trials",
    "successive halving",
    FOLLOWED,
    "full comparison",
)
