"""All figures: functions of results and a folder that write a PNG to the folder and return its path.

    plot_utils.reproducibility(result, folder)      # a result as in results/charlm_relu.json
    python plot_utils.py activations                # all activations with their derivatives

One activation: `training_curves`, `reproducibility`, `summary`, `disagreement_passage`. Across activations: `forest`,
`all_validation_curves`, `pd_at_equal_loss`, `pareto`, `gradient_norms`, `probes_along_training`. Across studies and architectures: `sources`,
`sources_along_training`, `sensitivity_against_size`, `architecture_heatmap`. A figure without data shows a message.
`matplotlib.rcParams["savefig.format"] = "pdf"` (or "svg") writes that format as well.
"""

if __name__ == "__main__":
    import common.startup  # noqa: F401 - first: the other imports are slow
    from figures.options import parser as _parser

    _parser().parse_args()  # handles --help and errors before matplotlib is imported

from pathlib import Path

from analysis.labels import study_line  # noqa: F401 - for custom figures
from common.scripts import run
from figures.across_activations import *  # noqa: F403
from figures.diagnostics import *  # noqa: F403
from figures.functions import activation_shapes, smelu_printed_formula
from figures.of_analysis import *  # noqa: F403
from figures.one_activation import *  # noqa: F403
from figures.options import parser


def main(argv=None) -> int:
    """`python plot_utils.py activations`"""
    args = parser().parse_args(argv)
    draw = {"activations": activation_shapes, "smelu_printed_formula": smelu_printed_formula}[args.figure]
    print(draw(args.output or Path("plots") / f"{args.figure}.png"))
    return 0


if __name__ == "__main__":
    run(main)
