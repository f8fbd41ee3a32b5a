"""Analyzes a study: the answer first, then all tables, with intervals; also written as REPORT.md and report.html.

    python analyze_results.py                          # the study in results/
    python analyze_results.py results/published        # another study
    python analyze_results.py --compare results/vary_init results/vary_data results/vary_dropout
    python analyze_results.py --scales results/scale_1M results/scale_2M results/scale_5M
    python analyze_results.py --across results/images results/graph results/control
    python analyze_results.py --export tables          # trials.csv, pairs.csv, curves.csv and tables.tex
    python analyze_results.py --contrasts gelu:relu swish:relu --at-loss 2.05     # prespecified, one family
    python analyze_results.py --recompute              # recompute every loss and pair from the checkpoints
    python analyze_results.py --export-predictions predictions         # what compare_predictions.py reads
    python analyze_results.py --audit results/reference/published results/reference/matched

Result files contain every metric; checkpoints are needed only for --recompute, --export-predictions and the figure of a text passage.
Exit status: 0 done, 1 a damaged file, a failed figure, or recomputed values that differ, 2 invalid command.
"""

if __name__ == "__main__":
    import common.startup  # noqa: F401 - first: the other imports are slow

import math
import sys
from pathlib import Path

from common.errors import RunError, UserError
from common.scripts import Parser, run
from training.options import add_file_options, check_user_files_are_used, load_user_files

REPORT_FILES = ("REPORT.md", "report.html")


def parser():
    p = Parser(
        prog="analyze_results.py",
        description="Analyze a study from its result files: the answer, tables with intervals, and figures.",
    )
    p.add_argument("study", nargs="?", type=Path, help="the study's folder (default: results)")
    p.add_argument("--recompute", action="store_true", help="recompute all losses and pairs from the checkpoints")
    p.add_argument("--plots-dir", type=Path, help="default: plots/, with the study's subfolder")
    p.add_argument("--checkpoints-dir", type=Path, help="default: checkpoints/, with the study's subfolder")
    p.add_argument(
        "--margin-loss",
        type=float,
        default=0.01,
        metavar="NATS",
        help="smallest difference of interest in loss (default: %(default)s)",
    )
    p.add_argument(
        "--margin-pairs",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="the same for pair metrics, as a fraction of ReLU's value (default: %(default)s)",
    )
    p.add_argument(
        "--at-loss",
        type=float,
        metavar="NATS",
        help="also compare activations at this validation loss, fixed before seeing the study",
    )
    p.add_argument(
        "--last-step",
        type=int,
        metavar="STEP",
        help="with --at-loss: last usable step of a curve, before any cooldown (default: the last)",
    )
    p.add_argument(
        "--contrasts",
        nargs="+",
        metavar="A:B",
        help="only compare the relative PD of these activations, as one family, at the loss of --at-loss and at the end;"
        " an activation may specify its learning rate (relu=2e-3), and --compare adds studies with other rates or seeds",
    )
    p.add_argument("--measure", metavar="NAME", help="with --contrasts: another pair metric, such as symmetric_kl")
    p.add_argument(
        "--by-frequency",
        action="store_true",
        help="only disagreement along training, by how frequent the true class is; needs the checkpoints' folder",
    )
    p.add_argument("--no-figures", action="store_true", help="tables only")
    p.add_argument(
        "--format",
        choices=("png", "pdf", "svg"),
        default="png",
        help="pdf or svg: also write each figure in this format",
    )
    p.add_argument(
        "--export", type=Path, metavar="DIR", help="also write trials, pairs and curves as CSV, tables as LaTeX"
    )
    p.add_argument(
        "--export-predictions",
        type=Path,
        metavar="DIR",
        help="only write every model's predictions, from the checkpoints, for compare_predictions.py or another program",
    )
    p.add_argument("--compare", nargs="+", type=Path, metavar="STUDY", help="studies that vary other sources or dtype")
    p.add_argument(
        "--scales", nargs="+", type=Path, metavar="STUDY", help="sensitivity against model size, from a sweep's studies"
    )
    p.add_argument(
        "--pooled", nargs="+", type=Path, metavar="STUDY", help="what relative PD depends on most, over several studies"
    )
    p.add_argument(
        "--across",
        nargs="+",
        type=Path,
        metavar="STUDY",
        help="whether the activation matters, by task and architecture",
    )
    p.add_argument("--audit", nargs="+", type=Path, metavar="STUDY", help="check the report's claims on these studies")
    p.add_argument(
        "--corpus", default="auto", metavar="FILE", help="file of the study's text (default: as recorded; verified)"
    )
    add_file_options(p)  # for --recompute and the figure of a passage
    return p


def main(argv=None) -> int:
    args = parser().parse_args(argv)
    if args.export and (args.audit or args.scales):
        raise UserError("--export applies to one study and those in --compare; leave out --audit and --scales")
    others = ("audit", "scales", "pooled", "across", "contrasts", "by_frequency", "recompute", "export", "compare")
    if args.export_predictions and (given := [f"--{n.replace('_', '-')}" for n in others if getattr(args, n)]):
        raise UserError(f"--export-predictions does nothing else; leave out {', '.join(given)}")
    if args.format == "png":
        return analyze(args)
    import matplotlib

    with matplotlib.rc_context({"savefig.format": args.format}):  # read by figures/style.py
        return analyze(args)


def analyze(args) -> int:
    """Runs the analysis chosen by the options; returns the exit status."""
    if args.audit:
        import audit

        return audit.run(args.audit)
    from common.storage import sibling

    if args.scales:
        from report.scales import publish_scales

        return publish_scales([read_study(path) for path in args.scales], args.plots_dir, not args.no_figures)
    if args.pooled:
        from report.pooled import publish_pooled

        plots = None if args.no_figures else args.plots_dir or Path("plots")
        return publish_pooled([read_study(path) for path in args.pooled], plots)
    if args.across:
        from report.across import publish_across

        plots = None if args.no_figures else args.plots_dir or Path("plots")
        return publish_across([read_study(path) for path in args.across], margins_given(args), plots)
    if args.measure and not args.contrasts:
        raise UserError("--measure is the measure of contrasts; it needs --contrasts")
    if args.contrasts:
        return publish_contrasts(args)
    if args.by_frequency:
        return publish_by_frequency(args)
    from report.contents import build
    from report.document import publish
    from report.view import RESUME
    from study import recompute

    user_files, defined = load_user_files(args)
    margins, common = margins_given(args), common_loss_given(args)
    folder = study_folder(args)
    study = read_study(folder)
    others = [read_study(path) for path in args.compare or [] if path.resolve() != folder.resolve()]
    check_user_files_are_used(defined, [(cell.architecture, cell.activation) for cell in study.cells])
    checkpoints = args.checkpoints_dir or sibling(folder, "checkpoints")
    if args.export_predictions:
        from study.export_predictions import export_predictions

        export_predictions(study.cells, checkpoints, args.export_predictions, user_files, args.corpus)
        print(f"written to {args.export_predictions}; compare with compare_predictions.py {args.export_predictions}")
        return 0
    plots = None if args.no_figures else args.plots_dir or sibling(folder, "plots")
    if plots is not None:
        from figures.drawing import begin

        begin()
    identical = True
    if args.recompute:
        cells = [cell for cell in study.cells if cell.pairs]
        if not cells:
            waiting = f": {RESUME}" if any(cell.n_missing_pairs for cell in study.cells) else ""
            raise UserError(f"{folder} contains no pairs of trials to recompute{waiting}")
        identical = recompute.recompute(
            cells, checkpoints, user_files, lambda text: print(text, flush=True), args.corpus
        )

    def passage_of(cell):
        return recompute.passage(cell, checkpoints, args.corpus)

    baselines = recompute.baselines(study, args.corpus)
    document = build(study, others, margins, baselines, common, passage_of if plots is not None else None)
    if args.export:
        from report.export import export

        print("written: " + ", ".join(map(str, export([study, *others], document, args.export))))
    drawn = publish(document, folder, REPORT_FILES, plots)
    return 0 if identical and drawn else 1


def publish_contrasts(args) -> int:
    """Prints the tables and draws the figure of --contrasts."""
    from common.storage import sibling
    from report import contrasts

    named = [tuple(pair.split(":")) for text in args.contrasts for pair in text.split(",")]
    for pair in named:
        if len(pair) != 2 or pair[0] == pair[1] or not all(pair):
            raise UserError(f"a contrast names two activations, such as gelu:relu, not {':'.join(pair)!r}")
    folder = study_folder(args)
    folders = {path.resolve(): path for path in (folder, *(args.compare or []))}
    plots = None if args.no_figures else args.plots_dir or sibling(folder, "plots")
    studies, measure = [read_study(path) for path in folders.values()], args.measure or "relative_pd"
    return contrasts.publish_contrasts(studies, named, margins_given(args), common_loss_given(args), measure, plots)


def publish_by_frequency(args) -> int:
    """`--by-frequency`: tables and figure, from the predictions along training that a study keeps."""
    from common.storage import sibling
    from report.frequency import publish_frequency
    from study.frequency import course
    from study.recompute import study_task

    folder = study_folder(args)
    cells = [cell for cell in read_study(folder).cells if len(cell.trials) > 1]
    if not cells:
        raise UserError(f"{folder} has no activation with two complete trials")
    task = study_task(cells[0].result, may_download=False, data=args.corpus)
    checkpoints = args.checkpoints_dir or sibling(folder, "checkpoints")
    plots = None if args.no_figures else args.plots_dir or sibling(folder, "plots")
    return publish_frequency([course(cell, checkpoints, task) for cell in cells], plots)


def margins_given(args):
    """The analysis.results.Margins from the options, which must be positive."""
    from analysis.results import Margins

    for name in ("margin_loss", "margin_pairs"):
        if not 0 < getattr(args, name) < math.inf:
            raise UserError(f"--{name.replace('_', '-')} must be positive, but it is {getattr(args, name)}")
    return Margins(args.margin_loss, args.margin_pairs)


def common_loss_given(args):
    """The analysis.curves.CommonLoss from the options, or None."""
    from analysis.curves import CommonLoss

    if args.at_loss is None:
        if args.last_step is not None:
            raise UserError("--last-step limits the curves that --at-loss reads; it needs --at-loss")
        return None
    if not 0 < args.at_loss < math.inf:
        raise UserError(f"--at-loss must be positive, but it is {args.at_loss}")
    return CommonLoss(args.at_loss, last_step=args.last_step)


def study_folder(args) -> Path:
    """The given folder, else results/, else the first study in --compare."""
    from common.storage import STUDY_FILE

    folder = args.study or Path("results")
    if args.study is None and args.compare and not (folder / STUDY_FILE).exists():
        return args.compare[0]
    return folder


def read_study(folder: Path):
    """The analysis.results.Study in a folder, in the order of its summary."""
    from analysis.results import PRIMARY, Cell, Study
    from common import json_files, storage
    from training.identity import difference_of_identities, identity_of

    study, results = storage.read_study(folder, say=lambda text: print(f"note: {text}", file=sys.stderr))
    for result in results:
        expected = identity_of(study["identity"], result["architecture"], result["activation"])
        difference = difference_of_identities(expected, result["identity"])
        if difference:
            raise RunError(f"{result['path']} belongs to another study than {folder} ({difference}); move it away")
    if not results:
        raise UserError(
            f"{folder} has no finished trial yet; if its run is still going, wait for the first one, else rerun it"
        )
    planned = []
    if (folder / storage.SUMMARY_FILE).exists():
        experiments = json_files.read_json(folder / storage.SUMMARY_FILE, json_files.SUMMARY)["experiments"].values()
        planned = [(entry["architecture"], entry["activation"]) for entry in experiments]
    rank = {key: position for position, key in enumerate(planned)}
    results.sort(key=lambda r: rank.get((r["architecture"], r["activation"]), len(rank)))
    needed = ("loss", *PRIMARY)  # the only values per window used here
    cells = [Cell(result, storage.read_values(result, needed)) for result in results]
    return Study(str(folder), study["identity"], cells, planned)


if __name__ == "__main__":
    run(main)
