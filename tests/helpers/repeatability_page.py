"""The tables of docs/repeatability.md, computed from the shipped studies by the rule of results/reference/one_bit/protocol.md.

python -m tests.helpers.repeatability_page      # writes them into the page, between their markers
"""

import math

from activations import ACTIVATIONS
from analysis.results import estimate
from tests.helpers.answer_page import ROOT, filled, table
from tests.helpers.exploratory_page import REFERENCE, one_bit, rounding, study

PAGE = ROOT / "docs" / "repeatability.md"
FOLDER = REFERENCE / "one_bit"
AMPLIFIES = 3e-5  # relative PD
DIVERGED = 4.2  # nats
ARCHITECTURES = ("charlm", "minigpt")
WIDTHS = ("smelu_0.1", "smelu_0.01", "smelu_0.001", "smelu_0.0001")


def endpoints(name) -> dict[tuple[str, str], float]:
    """(architecture, activation) -> relative PD after the last step, mean over pairs; without cells in which a trial diverged."""
    found = {}
    for cell in study(FOLDER / name).cells:
        losses = [trial["val_loss"] for trial in cell.trials.values()]
        assert len(losses) == len(cell.pairs) == 3
        if all(math.isfinite(loss) and loss <= DIVERGED for loss in losses):
            found[cell.architecture, cell.activation] = estimate(cell, "relative_pd").mean
    return found


def predicted(activation) -> bool:
    """Whether the activation's derivative jumps."""
    return ACTIVATIONS[activation].smoothness == "C0"


def verdict() -> str:
    """Of the first prediction."""
    as_predicted = {key: (value > AMPLIFIES) == predicted(key[1]) for key, value in endpoints("activations").items()}
    wrong = [key for key, right in as_predicted.items() if not right]
    twice = {activation for _, activation in wrong if sum(name == activation for _, name in wrong) == 2}
    if twice or len(wrong) > 3:
        return "contradicted"
    return "confirmed" if len(as_predicted) == 36 and not wrong else "inconclusive"


def verdict_of_width() -> str:
    """Of the second prediction."""
    values = [endpoints("width")["charlm", name] for name in WIDTHS]
    if values[-1] < AMPLIFIES:
        return "contradicted"
    return "confirmed" if values == sorted(values) and len(set(values)) == len(values) else "inconclusive"


def networks() -> str:
    """Relative PD of the only pair of trials in each of several other networks."""
    seeds = sorted(folder.name.removeprefix("network_") for folder in FOLDER.glob("network_*"))
    found = {seed: {c.activation: c for c in study(FOLDER / f"network_{seed}").cells} for seed in seeds}
    first = next(iter(found.values()))
    rows = [
        [cell.label, *(f"{estimate(of[name], 'relative_pd').mean:.1e}" for of in found.values())]
        for name, cell in first.items()
    ]
    return table(["Activation", *(f"Seed {seed}" for seed in seeds)], rows)


def blocks() -> dict[str, str]:
    """Marker -> the text between it and the next <!-- end -->."""
    return {make.__name__: make() for make in (amplification, width, networks, one_bit, rounding)}


def amplification() -> str:
    found = endpoints("activations")
    labels = {cell.activation: cell.label for cell in study(FOLDER / "activations").cells}
    order = sorted(labels, key=lambda name: (not predicted(name), -found.get(("charlm", name), 0)))
    rows = []
    for name in order:
        values = [found.get((architecture, name)) for architecture in ARCHITECTURES]
        right = all(value is not None and (value > AMPLIFIES) == predicted(name) for value in values)
        shown = ["diverged" if value is None else f"{value:.1e}" for value in values]
        derivative = {"C0": "jumps", "C1": "continuous", "C-infinity": "smooth"}[ACTIVATIONS[name].smoothness]
        rows.append([labels[name], derivative, *shown, "yes" if right else "no"])
    heads = ["Activation", "Derivative", "Relative PD, CharLM", "Relative PD, MiniGPT", "As predicted"]
    return table(heads, rows) + f"\n\nFirst prediction, by the protocol's rule: **{verdict()}**."


def width() -> str:
    found = endpoints("width")
    rows = [[name.removeprefix("smelu_"), f"{found['charlm', name]:.1e}"] for name in WIDTHS]
    return table(["β", "Relative PD"], rows) + f"\n\nSecond prediction: **{verdict_of_width()}**."


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), blocks()), encoding="utf-8")
