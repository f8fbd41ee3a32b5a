"""The command line of plot_utils.py, in a module of its own so that --help need not import what draws."""

from pathlib import Path

from common.scripts import Parser


def parser():
    p = Parser(prog="plot_utils.py", description="Draw the activations, or the two formulas of SmeLU.")
    p.add_argument("figure", choices=("activations", "smelu_printed_formula"), help="what to draw")
    p.add_argument("--output", type=Path, metavar="FILE", help="the PNG (default: plots/<figure>.png)")
    return p
