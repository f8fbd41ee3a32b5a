"""Numbers, intervals and lists as text."""

import itertools
import math
from collections.abc import Sequence


def number(value: float | None, decimals: int, signed: bool = False) -> str:
    """A number with a fixed number of decimals; '-' if missing.

    >>> number(-0.00001, 3), number(0.5, 2, signed=True), number(None, 2)
    ('0.000', '+0.50', '-')
    """
    if value is None:
        return "-"
    text = f"{value:+,.{decimals}f}" if signed else f"{value:,.{decimals}f}"
    return text.lstrip("+-") if not any(digit in text for digit in "123456789") else text


def interval(estimate, decimals: int, signed: bool = False) -> str:
    """'[0.053, 0.064]', or 'no interval'."""
    if estimate.low is None:
        return "no interval"
    return f"[{number(estimate.low, decimals, signed)}, {number(estimate.high, decimals, signed)}]"


def with_interval(estimate, decimals: int, signed: bool = False, n: int | None = None) -> str:
    """'0.0588 [0.0533, 0.0642]'; '0.0602 (no interval)'; '500 (all equal)'; '-' without a mean. n is added if it differs."""
    if estimate is None or estimate.mean is None:
        return "-"
    text = interval(estimate, decimals, signed)
    if estimate.sd == 0 and estimate.low == estimate.high:
        text = "(all equal)"
    elif estimate.low is None:
        text = f"({text})"
    other_n = f" (n = {estimate.n})" if n is not None and estimate.n != n else ""
    return f"{number(estimate.mean, decimals, signed)} {text}{other_n}"


def course(points, decimals: int) -> str:
    """Points (step, value) as text: 'falls from 0.1288 at step 0 to 0.0797 at step 100 and rises to 0.1275 at step 500'."""
    texts: list[str] = []
    for (first, before), (last, after) in itertools.pairwise(points):
        kind = "falls" if after < before else "rises"
        start = "" if texts else f" from {before:.{decimals}f} at step {first:,}"
        texts.append(f"{kind}{start} to {after:.{decimals}f} at step {last:,}")
    return " and ".join(texts)


def half_width(estimate, decimals: int) -> str:
    """'± 0.0055', half the width of the interval; the interval itself if it was clipped; '' if there is none."""
    if estimate.low is None:
        return ""
    below, above = estimate.mean - estimate.low, estimate.high - estimate.mean
    if not math.isclose(below, above, rel_tol=1e-6):
        return interval(estimate, decimals)
    return f"± {number(above, decimals)}"


def plus_minus(estimate, decimals: int) -> str:
    """'0.0588 ± 0.0055': the mean and `half_width`; the mean alone without an interval."""
    if estimate.mean is None:
        return "-"
    return f"{number(estimate.mean, decimals)} {half_width(estimate, decimals)}".rstrip()


def decimals_for(estimate, least: int, most: int = 8) -> int:
    """Decimals that show half the interval's width with two significant digits, between `least` and `most`."""
    if estimate is None or estimate.low is None or estimate.high <= estimate.low:
        return least
    return min(most, max(least, 1 - math.floor(math.log10((estimate.high - estimate.low) / 2))))


def p_value(p: float | None) -> str:
    """'p = 0.012', 'p < 0.001', or 'p not computable'."""
    if p is None:
        return "p not computable"
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}" if p < 0.995 else "p = 1"


def brief_p(p: float | None) -> str:
    """'0.012', '<0.001'; '-' if None."""
    return "-" if p is None else "<0.001" if p < 0.001 else f"{p:.2g}"


def listing(names: Sequence[str]) -> str:
    """'a', 'a and b', 'a, b and c'; 'none' if empty."""
    names = list(names)
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names) or "none"


def plural(count: int, noun: str) -> str:
    """'1 trial', '2 trials'."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
