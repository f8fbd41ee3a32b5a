"""Why models differ: probes and comparisons of the trained models of a study, from its checkpoints.

    python diagnose.py results                                         # every probe of every trial
    python diagnose.py results --probes curvature --workers 2
    python diagnose.py results --comparisons barrier tangent_kernel    # of trials 1 and 2, 3 and 4, ...
    python diagnose.py results --comparisons barrier --across          # trial k of the first activation and of each other

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
    p.add_argument("study", type=Path, nargs="?", default=Path("results"), help="folder of results (default: results)")
    names = {"nargs": "+", "metavar": "NAME"}
    p.add_argument("--probes", help="default: all, unless --comparisons are given", **names)
    p.add_argument("--comparisons", help="of two models (default: none)", **names)
    p.add_argument("--across", action="store_true", help="compare the first activation with each other one, by trial")
    p.add_argument("--trials", type=int, metavar="N", help="only trials 1 to N (default: all)")
    p.add_argument("--checkpoints-dir", type=Path, help="default: the sibling of the results")
    p.add_argument("--corpus", default="auto", metavar="FILE", help="where the study's text is (default: where it was)")
    p.add_argument("--workers", type=int, help="at a time (default: the cores this process may use)")
    add_file_options(p)
    return p


def main(argv=None) -> int:
    args = parser().parse_args(argv)
    from analyze_results import read_study
    from common.provenance import usable_cpus
    from common.storage import sibling
    from report.diagnostics import association_table, tables
    from study import diagnose
    from study.recompute import study_task

    names = chosen_names(args)
    user_files, _ = load_user_files(args)
    study = read_study(args.study)
    task = study_task(study.cells[0].result, may_download=False, data=args.corpus)
    if not hasattr(task, "examples"):
        raise UserError(f"the task {task.name} has no fixed batch, which diagnostics need")
    wanted = diagnose.entries(study, names, args.across, args.trials)
    if not wanted:
        raise UserError(
            f"{args.study} has no trial (or no pair of trials) that {', '.join(names)} could be measured on"
        )
    checkpoints = args.checkpoints_dir or sibling(args.study, "checkpoints")
    workers = args.workers or usable_cpus()
    known = diagnose.run(study, wanted, checkpoints, task, workers, user_files, say)
    print(tables(wanted, known))
    if table := association_table(study, wanted, known):
        print(f"\n{table}")
    return 0


def chosen_names(args) -> list[str]:
    """The probes and comparisons that the options name."""
    from diagnostics.comparisons import COMPARISONS
    from diagnostics.probes import PROBES
    from study.choices import split_list

    for name in ("workers", "trials"):
        if (value := getattr(args, name)) is not None and value < 1:
            raise UserError(f"--{name} must be at least 1, but it is {value}")
    probes = split_list(args.probes) if args.probes else ([] if args.comparisons else list(PROBES))
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
