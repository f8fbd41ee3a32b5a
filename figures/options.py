"""The command line of plot_utils.py; imports no drawing library, so that --help is fast."""

from pathlib import Path

from common.scripts import Parser


def parser():
    p = Parser(prog="plot_utils.py", description="Draw the activations, or the two formulas of SmeLU.")
    p.add_argument("figure", choices=("activations", "smelu_printed_formula"), help="figure to draw")
    p.add_argument("--output", type=Path, metavar="FILE", help="PNG file (default: plots/<figure>.png)")
    return p
