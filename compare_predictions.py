"""Compares existing predictions of retrained models, from any framework: how much do they agree, does a variant matter?

    python compare_predictions.py DIR                       # DIR/<variant>/<trial>.npz (.npy, .csv, .parquet), DIR/labels.npy
    python compare_predictions.py DIR --logits --reference relu
    python compare_predictions.py DIR --groups groups.npy   # examples that are not independent
    python compare_predictions.py DIR --export tables       # trials, pairs and comparisons as CSV, tables as LaTeX

It writes REPORT.md, report.html, forest.png and comparison.json to DIR, or to --output. In a notebook, use `load`,
`compare` and `report` below. Documentation: docs/own-predictions.md.
Exit status: 0 done, 1 a disk error, 2 invalid files or command.
"""

if __name__ == "__main__":
    import common.startup  # noqa: F401 - first: the other imports are slow

import math
from pathlib import Path

from common.errors import UserError
from common.scripts import Parser, run

REPORT_FILES = ("REPORT.md", "report.html")


def parser():
    p = Parser(prog="compare_predictions.py", description="Compare variants of models by their trials' predictions.")
    p.add_argument(
        "folder", type=Path, metavar="DIR", help="contains <variant>/<trial>.npz, .npy, .csv or .parquet, and labels.*"
    )
    p.add_argument("--reference", metavar="NAME", help="the variant that others are compared with (default: the first)")
    p.add_argument(
        "--logits", action="store_true", help="the files contain logits or log-probabilities, not probabilities"
    )
    p.add_argument(
        "--groups",
        type=Path,
        metavar="FILE",
        help="one value per example: examples with equal values are not independent",
    )
    p.add_argument(
        "--margin",
        "--margin-pairs",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="smallest difference of interest in pair metrics, as a fraction of the reference's value (default:"
        " %(default)s)",
    )
    p.add_argument(
        "--margin-loss",
        type=float,
        default=0.01,
        metavar="NATS",
        help="the same for cross-entropy (nats) and for accuracy (fraction) (default: %(default)s)",
    )
    p.add_argument("--output", type=Path, metavar="FOLDER", help="folder for the report (default: DIR)")
    p.add_argument("--export", type=Path, metavar="FOLDER", help="also write CSV and LaTeX tables to this folder")
    p.add_argument(
        "--workers", type=int, metavar="N", help="processes (default: one per core; results do not depend on it)"
    )
    p.add_argument("--no-figures", action="store_true", help="tables only")
    return p


def main(argv=None) -> int:
    from tqdm import tqdm

    from analysis.predictions import compare as compare_all
    from analysis.results import Margins
    from common.files import check_writable
    from common.prediction_files import load
    from common.provenance import usable_cpus

    args = parser().parse_args(argv)
    for name in ("margin", "margin_loss"):
        if not 0 < getattr(args, name) < math.inf:
            raise UserError(f"--{name.replace('_', '-')} must be positive, but it is {getattr(args, name)}")
    if args.workers is not None and args.workers < 1:
        raise UserError(f"--workers must be at least 1, but it is {args.workers}")
    output = args.output or args.folder
    for folder in filter(None, (output, args.export)):
        if folder.resolve().parent == args.folder.resolve():
            raise UserError(f"{folder} would be read as a variant in {args.folder}; choose a folder elsewhere")
        check_writable(folder)
    predictions = load(args.folder, logits=args.logits, groups=args.groups)
    total = predictions.n_rows * len(predictions.trials)
    with tqdm(total=total, unit=" examples", unit_scale=True, desc="measuring", leave=False, disable=None) as bar:
        margins = Margins(args.margin_loss, args.margin)
        workers = args.workers or usable_cpus()
        variants = compare_all(predictions, args.reference, margins, workers, bar.update)
    report(variants, output, figures=not args.no_figures)
    if args.export:
        from report.predictions import export

        print("written: " + ", ".join(map(str, export(variants, args.export))))
    return 0


# --- in a notebook --------------------------------------------------------------------------------------------------


def load(folder, logits=False, groups=None):
    """Reads and checks the predictions in a folder; see common/prediction_files.py."""
    from common import prediction_files

    return prediction_files.load(folder, logits, groups)


def compare(predictions, reference=None, margin=0.05, margin_loss=0.01, workers=1):
    """All measures and verdicts: an analysis.predictions.Variants; `comparisons` maps (variant, measure) to a comparison."""
    from analysis.predictions import compare as compare_all
    from analysis.results import Margins

    return compare_all(predictions, reference, Margins(margin_loss, margin), workers)


def report(variants, folder, figures=True):
    """Prints the report and writes REPORT.md, report.html, forest.png and comparison.json to a folder."""
    from common import json_files
    from report import predictions as contents
    from report.document import publish

    folder = Path(folder)
    json_files.write_json(folder / contents.FILE_OF_NUMBERS, contents.as_json(variants))
    publish(contents.document(variants), folder, REPORT_FILES, folder if figures else None)


if __name__ == "__main__":
    run(main)
