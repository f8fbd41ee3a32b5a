"""One line of the results of the simulation study: a rate, its Monte Carlo error and the bound it must keep."""

import numpy as np


def line(table, case, n, share, hits, least=None, most=None, slack=2.0, limit=False, **besides):
    """The fraction of studies with a hit, and whether it is within its bounds.

    Parameters
    ----------
    table, case : str
        Where it is printed (see `tables.TABLES`), and what was simulated.
    n : int
        Trials per study; windows, for a text.
    share : float or None
        Fraction of a pair's variance that comes from its two trials; None for means of trials.
    hits : (studies,) sequence of bool
    least, most : float, optional
        Bounds that the rule promises.
    slack : float
        Monte Carlo standard errors by which a bound may be missed.
    limit : bool
        Whether the rule is known to break here, so that a missed bound does not count.
    **besides : float
        Further values to print.

    Returns
    -------
    dict
        For JSON: the arguments, "measured" (the rate), its "standard_error", and "kept" (None without a bound).
    """
    rate, studies = float(np.mean(hits)), len(hits)
    kept = None
    if least is not None or most is not None:
        above = least is None or rate >= least - slack * np.sqrt(least * (1 - least) / studies)
        below = most is None or rate <= most + slack * np.sqrt(most * (1 - most) / studies)
        kept = bool(above and below)
    return {
        "table": table,
        "case": case,
        "trials": n,
        "share": share,
        "studies": studies,
        "measured": rate,
        "standard_error": float(np.sqrt(rate * (1 - rate) / studies)),
        "at_least": least,
        "at_most": most,
        "kept": kept,
        "limit": limit,
        "besides": {name: float(value) for name, value in besides.items()},
    }
