"""Values of trials and of pairs, by hand and by Hypothesis, and estimates to compare."""

import math

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from analysis.estimates import Estimate, pair_matrix


def symmetric(array):
    array = array + array.T
    np.fill_diagonal(array, np.nan)
    return array


def close(estimate, other):
    """The same estimate, up to rounding."""
    fields = ("mean", "sd", "low", "high", "df", "standard_error")
    found, expected = ([getattr(e, name) for name in fields] for e in (estimate, other))
    return found == pytest.approx(expected, rel=1e-9, abs=1e-12) and estimate.n == other.n


def difference_of(mean, se, df, n=10):
    return Estimate(mean, se * math.sqrt(n), n, None, None, df, se, "", variance_terms=(n * se**2, 0.0))


SPREAD = st.floats(-100, 100).map(lambda x: round(x, 6))
TRIALS = hnp.arrays(float, st.integers(3, 12), elements=SPREAD)
SQUARES = st.integers(4, 8).flatmap(lambda n: hnp.arrays(float, (n, n), elements=SPREAD)).map(symmetric)
# Six pairs of four trials, small enough to compute by hand.
HAND = pair_matrix([(0, 1, 1), (0, 2, 2), (0, 3, 3), (1, 2, 4), (1, 3, 5), (2, 3, 9)], 4)
