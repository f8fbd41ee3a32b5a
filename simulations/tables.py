"""The results of the simulation study as tables in GitHub's Markdown."""

from simulations.rules import ACTIVATIONS

RATES = (
    "naive",
    "jackknife",
    "f_test",
    "alone",
    "interpolated",
    "independent",
)  # values next to a rate that are rates too, printed in percent
TABLES = {
    "coverage": "Coverage of the 95% interval of a mean over pairs",
    "groups": "Coverage of the 95% interval of a mean over pairs within groups of trials",
    "false positives": "The same activation twice, disjoint seeds: how often p < 0.05",
    "power": "Power where 80% is predicted, from the true variances and the stated margin",
    "sensitivity": f"Do {ACTIVATIONS} activations have the same mean?",
    "margin": "False verdicts where the truth is exactly at the margin",
    "limits": "Where the working model does not hold",
    "outlying": "How often a run is flagged as outlying",
    "equal loss": "At equal loss, where the true difference is 0",
    "windows": "Coverage of the 95% interval over correlated windows of a text",
}


def markdown(lines: list[dict], studies: int) -> str:
    """All tables.

    Parameters
    ----------
    lines : list of dict
        See `lines.line`.
    studies : int
        Studies per line; lines with another number (simulated again) say so.

    Returns
    -------
    str
    """
    from tabulate import tabulate

    text = [f"{studies:,} studies per line; rates in percent, ± their Monte Carlo standard error.\n"]
    for table, title in TABLES.items():
        rows = [row_of(item, studies) for item in lines if item["table"] == table]
        body = tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)
        text.append(f"**{title}**\n\n{body}\n")
    return "\n".join(text)


def row_of(item: dict, studies: int) -> dict[str, str]:
    """A line as a table row: column -> text."""
    least, most = (None if p is None else f"{100 * p:.0f}" for p in (item["at_least"], item["at_most"]))
    promised = {(True, True): "", (False, True): f"≥ {least}", (True, False): f"≤ {most}"}.get(
        (least is None, most is None), f"{least} to {most}" if least != most else f"{least}, predicted"
    )
    again = "" if item["studies"] == studies else f" ({item['studies']:,} studies)"
    row = {
        "case": item["case"],
        "n": item["trials"],
        "first-order share": "" if item["share"] is None else f"{item['share']:.2f}",
        "measured": f"{100 * item['measured']:.1f} ± {100 * item['standard_error']:.1f}{again}",
        "promised": promised,
        "kept": "breaks"
        if item["limit"] and item["kept"] is False
        else {True: "yes", False: "NO", None: ""}[item["kept"]],
    }
    for name, value in item["besides"].items():
        rate = name in RATES
        row[name.replace("_", " ")] = f"{100 * value:.1f}" if rate else f"{value:.2f}"
    return row
