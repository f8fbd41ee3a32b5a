"""Why models differ: probes and comparisons of the trained models of a study, from its checkpoints.

    python diagnose.py results                                         # every probe of every trial
    python diagnose.py results --probes curvature --workers 2
    python diagnose.py results --comparisons barrier tangent_kernel    # of trials 1 and 2, 3 and 4, ...
    python diagnose.py results --comparisons barrier --across          # trial k of the first activation and of each other
    python diagnose.py results/branch_* --comparisons barrier          # studies with several --branch-step

A probe (diagnostics/probes.py) takes one model, a comparison (diagnostics/comparisons.py) two; both take a fixed batch of the
training split. What is measured is kept in the study's diagnostics.json, and the same command resumes.
Exit status: 0 done, 1 a job failed, 2 a mistake in the command, 130 interrupted.
"""

if __name__ == "__main__":
    import common.startup  # noqa: F401 - before the others, which take long to import

from pathlib import Path

from common.errors import UserError, unknown
from common.scripts import Parser, run, say
from training.options import add_file_options, load_user_files


def parser():
    p = Parser(prog="diagnose.py", description="Probes and comparisons of a study's trained models; resumes.")
    p.add_argument("studies", type=Path, nargs="*", metavar="STUDY", help="folders of results (default: results)")
    names = {"nargs": "+", "metavar": "NAME"}
    p.add_argument("--probes", help="default: all, unless --comparisons are given", **names)
    p.add_argument("--comparisons", help="of two models (default: none)", **names)
    p.add_argument("--across", action="store_true", help="compare the first activation with each other one, by trial")
    p.add_argument("--trials", type=int, metavar="N", help="only trials 1 to N (default: all)")
    p.add_argument("--checkpoints-dir", type=Path, help="default: the sibling of the results")
    p.add_argument("--plots-dir", type=Path, help="of the histograms' figures (default: the sibling of the results)")
    p.add_argument("--corpus", default="auto", metavar="FILE", help="where the study's text is (default: where it was)")
    p.add_argument("--workers", type=int, help="at a time (default: the cores this process may use)")
    add_file_options(p)
    return p


def main(argv=None) -> int:
    args = parser().parse_args(argv)
    from report.diagnostics import branch_table

    names = chosen_names(args)
    user_files, _ = load_user_files(args)
    folders = args.studies or [Path("results")]
    if len(folders) > 1 and args.checkpoints_dir:
        raise UserError("--checkpoints-dir is one study's folder, but several studies are given")
    measured = []
    for folder in folders:
        if len(folders) > 1:
            print(f"\n{folder}\n")
        measured.append(diagnose_study(folder, names, args, user_files))
    if table := branch_table(measured, args.plots_dir or Path("plots")):
        print(f"\n{table}")
    return 0


def diagnose_study(folder: Path, names, args, user_files):
    """Measures, prints and draws the diagnostics of one study; returns (study, entries wanted, all that is known)."""
    from analyze_results import read_study
    from common.provenance import usable_cpus
    from common.storage import sibling
    from report.diagnostics import association_table, draw, tables
    from study import diagnose
    from study.recompute import study_task

    study = read_study(folder)
    task = study_task(study.cells[0].result, may_download=False, data=args.corpus)
    if not hasattr(task, "examples"):
        raise UserError(
            f"the task {task.name} has no fixed batch of examples, which diagnostics need; they are for the other tasks"
        )
    wanted = diagnose.entries(study, names, args.across, args.trials)
    if not wanted:
        raise UserError(f"{folder} has no trial (or no pair of trials) that {', '.join(names)} could be measured on")
    checkpoints = args.checkpoints_dir or sibling(folder, "checkpoints")
    workers = args.workers or usable_cpus()
    known = diagnose.run(study, wanted, checkpoints, task, workers, user_files, say)
    print(tables(wanted, known))
    for path in draw(study, wanted, known, args.plots_dir or sibling(folder, "plots")):
        print(f"\nFigure: {path}")
    if table := association_table(study, wanted, known):
        print(f"\n{table}")
    return study, wanted, known


def chosen_names(args) -> list[str]:
    """The probes and comparisons that the options name."""
    from diagnostics.comparisons import COMPARISONS
    from diagnostics.probes import DRAWN, PROBES
    from study.choices import split_list

    for name in ("workers", "trials"):
        if (value := getattr(args, name)) is not None and value < 1:
            raise UserError(f"--{name} must be at least 1, but it is {value}")
    default = [] if args.comparisons else [name for name in PROBES if name not in DRAWN]
    probes = split_list(args.probes) if args.probes else default
    comparisons = split_list(args.comparisons) if args.comparisons else []
    for kind, given, table in (("probe", probes, PROBES), ("comparison", comparisons, COMPARISONS)):
        for name in given:
            if name not in table:
                raise unknown(kind, name, table)
    if args.across and not comparisons:
        raise UserError("--across says which models are compared; it needs --comparisons")
    return [*probes, *comparisons]


if __name__ == "__main__":
    run(main)
