"""The section on a study that varies one bit: what it becomes with activations whose derivative jumps or does not."""

import plot_utils
from activations import ACTIVATIONS, is_known
from analysis import results
from analysis.labels import architecture_label
from report.document import Figure, Section, Table
from report.view import View, counted


def derivative(activation: str) -> str:
    """'jumps', 'continuous' (but not its own derivative) or 'smooth'; 'unknown' if a file of one's own does not say."""
    known = ACTIVATIONS[activation] if is_known(activation) else None
    return {"C0": "jumps", "C1": "continuous", "C-infinity": "smooth"}.get(known and known.smoothness, "unknown")


def one_bit(view: View) -> Section | None:
    """Relative PD of every activation in every architecture; None if a study varies anything but a bit."""
    cells = [cell for cell in view.cells if cell.pairs]
    if view.study.identity["vary"] != ["bit"] or not cells:
        return None
    architectures = list(dict.fromkeys(cell.architecture for cell in cells))
    found = {(c.activation, c.architecture): results.estimate(c, "relative_pd").mean for c in cells}
    labels = {c.activation: c.label for c in cells}
    largest = {name: max(v for (of, _), v in found.items() if of == name and v is not None) for name in labels}
    rows = [
        [labels[name], derivative(name)]
        + [f"{value:.1e}" if (value := found.get((name, a))) is not None else "-" for a in architectures]
        for name in sorted(largest, key=largest.get, reverse=True)
    ]
    caption = (
        f"Relative PD at the end, mean over pairs ({counted(cells)}). In each trial the lowest bit of a different initial weight is"
        " flipped with everything else held fixed, so n counts bits of one network. In a confirmatory study of the 18 built-in"
        " activations, those whose derivative jumps amplified it and the others did not; a very narrow SmeLU did"
        " (docs/repeatability.md)."
    )
    figure = Figure(
        "Points: means over pairs; lines: smallest to largest pair that differs at all.",
        plot_utils.flipped_bits,
        [cell.result for cell in cells],
        ({name: derivative(name) for name in labels},),
    )
    headers = ["Activation", "Derivative", *map(architecture_label, architectures)]
    return Section("What becomes of one flipped bit", [Table(headers, rows, caption), figure], brief=True)
