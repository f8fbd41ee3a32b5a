"""Runs a study: trains and compares all trials, resuming where an earlier run stopped.

    python run_all_experiments.py                                  # the report's five activations, ten trials each
    python run_all_experiments.py --activations relu gelu --trials 3
    python run_all_experiments.py --protocol published --trials 2  # the report's protocol, draw by draw
    python run_all_experiments.py --scale 1M 2M 5M                 # one study per size, 3 activations x 3 trials
    python run_all_experiments.py --dry-run                        # check everything; print trials, time and disk

Rerun the same command to resume; --trials 20 extends 10; --fresh sets the old study aside.
Exit status: 0 done, 1 a trial failed or a system error occurred, 2 invalid command, 130 or 143 interrupted.
"""

if __name__ == "__main__":
    import common.startup  # noqa: F401 - first: the other imports are slow

import contextlib
from pathlib import Path

from architectures.sizes import ACTIVATIONS, TRIALS
from common.errors import RunError
from common.scripts import Parser, as_typed, run
from common.status import note_status
from study.choices import ALL_STREAMS, at_size, chosen_sizes, make_plan
from study.cost import print_cost
from study.signals import Signals
from training.options import (
    add_compile_option,
    add_config_options,
    add_file_options,
    add_task_options,
    check_user_files,
    load_user_files,
)

WORKERS_ON_A_GPU = 4  # the fastest of those measured (docs/gpu.md); lowered during a run that is out of memory


def parser():
    p = Parser(
        prog="run_all_experiments.py",
        description="Train and compare every architecture and activation of a study, or resume the study.",
        epilog="Lists take spaces or commas. The defaults shown are those of text; other tasks have their own (docs/domains.md).",
    )
    names = {"nargs": "+", "metavar": "NAME"}
    p.add_argument(
        "--architectures", help="names, or all (default: from --architecture-file, or the task's first)", **names
    )
    p.add_argument(
        "--activations",
        help="names, report or answer (five each), or all (default: from --activation-file, or report; with --scale:"
        f" {', '.join(ACTIVATIONS)})",
        **names,
    )
    p.add_argument("--trials", type=int, help=f"trials per activation (default: 10; with --scale: {TRIALS})")
    p.add_argument("--seed-base", type=int, default=42, help="seed of trial 1 (default: %(default)s)")
    p.add_argument("--protocol", choices=("matched", "published"), default="matched", help="default: matched")
    add_task_options(p)
    p.add_argument(
        "--workers",
        type=int,
        help="trials at a time; with Ray on GPUs: per GPU; ignored on the CPUs of an existing Ray cluster (default: the"
        f" available cores, on a GPU at most {WORKERS_ON_A_GPU})",
    )
    p.add_argument("--engine", choices=("local", "ray"), default="local", help="default: local")
    p.add_argument("--ray-address", metavar="ADDRESS", help="a running Ray cluster (default: one on this machine)")
    p.add_argument(
        "--vary",
        nargs="+",
        metavar="STREAM",
        help="random streams that differ between trials: init, data, dropout (default: all three), bit (flip one bit of"
        " one initial weight), or none; the others keep the seed of trial 1",
    )
    add_compile_option(p)
    add_file_options(p)
    p.add_argument(
        "--scale",
        nargs="+",
        metavar="SIZE",
        help="parameter counts, such as 1M 2M 5M 10M 20M 50M 100M: one study for each, in the subfolder scale_<size>/;"
        " sets n_layer, n_head, n_embd and learning_rate (see architectures/sizes.py)",
    )
    p.add_argument(
        "--probes",
        nargs="+",
        metavar="NAME",
        default=[],
        help="quantities measured during training, such as gradient_norm; they do not affect training (see"
        " diagnostics/probes.py)",
    )
    p.add_argument("--results-dir", type=Path, help="default: results/, or a subfolder named after the kind of study")
    p.add_argument("--plots-dir", type=Path, help="default: plots/, with the same subfolder")
    p.add_argument("--checkpoints-dir", type=Path, help="default: checkpoints/, with the same subfolder")
    p.add_argument("--fresh", action="store_true", help="set the study in the folder aside and start over")
    p.add_argument("--dry-run", action="store_true", help="check everything, print trials, time and disk, and exit")
    add_config_options(p, several_rates=True)
    return p


def model_facts(plan, task) -> dict:
    """Experiment -> {n_parameters, sizes}; building each model also checks its activation."""
    from architectures.registry import build_model

    facts = {}
    for architecture, activation in plan.experiments:
        model = build_model(architecture, activation, plan.config, task.model_sizes)
        facts[architecture, activation] = {
            "n_parameters": sum(p.numel() for p in model.parameters()),
            "sizes": getattr(model, "sizes", None),
        }
    return facts


def default_workers(plan) -> int:
    """Trials at a time: as many as the cores can run, and on a GPU at most WORKERS_ON_A_GPU."""
    from common.provenance import usable_cpus

    cores = max(1, usable_cpus() // plan.config.threads_per_trial)
    return min(cores, WORKERS_ON_A_GPU) if plan.device == "cuda" else cores


def make_engine(args, plan, workers, context):
    """The engine chosen by --engine."""
    from study.local_engine import LocalEngine
    from study.ray_engine import RayEngine

    if args.engine == "ray":
        return RayEngine(args.ray_address, workers, context, plan.config.threads_per_trial, plan.device == "cuda")
    return LocalEngine(workers, context)


def main(argv=None) -> int:
    args = parser().parse_args(argv)
    with Signals() as signals:  # before importing torch, which takes seconds
        return check_and_run(args, signals)


def check_and_run(args, signals) -> int:
    """Checks the options, then runs the study or studies; a dry run prints their cost instead."""
    from architectures.registry import default_architecture
    from diagnostics.probes import check_probes
    from tasks.registry import load_task
    from training.compiled import check_can_be_compiled
    from training.memory import check_memory

    user_files, defined = load_user_files(args)
    args.architectures = args.architectures or [defined.get("architecture") or default_architecture(args.task)]
    if "activation" in defined:
        args.activations = args.activations or [defined["activation"]]
    sizes = chosen_sizes(args)
    args.activations = args.activations or list(ACTIVATIONS if sizes else ["report"])
    args.trials = (TRIALS if sizes else 10) if args.trials is None else args.trials
    plan, notes = make_plan(args)
    check_folders(plan)
    task = load_task(args.task, args.corpus)
    task.check(plan.config)
    check_user_files(defined, plan.experiments, plan.config, task)
    check_probes(plan.probes, task, plan.config)
    plans = [at_size(args, plan, size, task.model_sizes) for size in sizes] or [plan]
    for plan in plans:
        check_folders(plan)
    workers = args.workers or default_workers(plan)
    for note in notes:
        print(note)
    for plan in plans:
        check_memory(plan.config, plan.experiments, task.model_sizes, plan.device)
    studies = [(plan, model_facts(plan, task)) for plan in plans]
    for plan in plans:
        for names in plan.experiments if plan.compiled else ():
            check_can_be_compiled(*names, plan.config, task)
    note_status("analyze", analysis_command(plans, args))
    if args.dry_run or sizes:
        print_cost(args, studies, task, workers)
    if args.dry_run:
        warn_if_single(plan)
        return 0
    signals.trials_running = True
    failures = []
    for plan, facts in studies:
        try:
            status = run_plan(args, plan, task, facts, workers, user_files, signals)
        except RunError as error:  # continue with the other sizes of a sweep
            if len(studies) == 1:
                raise
            failures.append(f"{plan.results_dir}: {error}")
            print(failures[-1], flush=True)
            continue
        if status:
            return status
    if failures:
        raise RunError(
            f"{len(failures)} of {len(studies)} studies failed (see above); rerun the same command to retry them"
        )
    if len(sizes) > 1:
        print(f"next: {analysis_command(plans, args)}")
    return 0


def analysis_command(plans, args) -> str:
    """The command that analyzes a study, or the studies of a sweep over sizes."""
    folders = [plan.results_dir for plan in plans]
    options = ["--scales"] if len(folders) > 1 else []
    options += [] if folders == [Path("results")] else [as_typed(folder) for folder in folders]
    for option in ("architecture_file", "activation_file"):
        if path := getattr(args, option):
            options += [f"--{option.replace('_', '-')}", as_typed(path)]
    return " ".join(["python analyze_results.py", *options])


def check_folders(plan) -> None:
    """Raises an error, before any work begins, if one of the folders is not writable."""
    from common import files

    for folder in (plan.results_dir, plan.checkpoints_dir, plan.plots_dir):
        files.check_writable(folder)


def warn_if_single(plan):
    if plan.n_trials == 1:
        print("note: with one trial there are no pairs to compare; reproducibility needs at least two trials")


def note_changes():
    """Prints a note if the program differs from its commit; results record this."""
    from common.provenance import git_commit

    if (git_commit() or "").endswith("+changes"):
        print(f"note: uncommitted changes; results will record git_commit {git_commit()}")


def note_missing_probes(plan, experiments) -> None:
    """Prints how many finished trials lack a requested probe: probes are measured during training only."""
    for name in plan.probes:
        finished = [record["history"] for e in experiments for record in e.records.values() if record["history"]]
        lacking = sum(name not in history[-1].get("probes", {}) for history in finished)
        if lacking:
            print(f"note: {lacking} finished trial(s) lack the probe {name}; only newly trained trials will have it")


def run_plan(args, plan, task, facts, workers, user_files, signals, seed_by_seed=False) -> int:
    """Runs one study and returns its exit status.

    seed_by_seed: run trial 1 of every experiment before trial 2 of any, instead of one experiment after the other.
    """
    from common import files
    from common.provenance import program
    from study.aside import set_study_aside
    from study.experiment import Experiment
    from study.jobs import Context
    from study.progress import Progress
    from study.run import remove_leftovers, run, trial_of
    from study.summaries import other_results
    from training.identity import holds_study, open_study

    folders = {plan.results_dir: "--results-dir"}
    if plan.checkpoints_dir.resolve() != plan.results_dir.resolve():
        folders[plan.checkpoints_dir] = "--checkpoints-dir"
    with contextlib.ExitStack() as until_done:
        for folder, option in folders.items():
            until_done.enter_context(files.locked(folder, option))
        # before anything is moved or written: a Ray cluster may be unreachable
        engine = make_engine(args, plan, workers, Context(task, user_files, plan.probes))
        until_done.callback(engine.close)
        if args.fresh and (aside := set_study_aside(plan)):
            print(f"the old study is set aside in {', '.join(map(str, aside))}", flush=True)
        if not args.fresh:
            for folder, option in folders.items():
                holds_study(folder, plan.identity(task), option)
        for folder, option in folders.items():
            open_study(folder, plan.identity(task), program(), option)
        experiments = [Experiment(plan, task, *key, facts[key]) for key in plan.experiments]
        for experiment in experiments:
            experiment.check_checkpoints(say=lambda text: print(text, flush=True))
            for text in experiment.notes:
                print(f"note: {text}", flush=True)
        others = other_results(plan, experiments, say=lambda text: print(f"note: {text}", flush=True))
        jobs = [(experiment, job) for experiment in experiments for job in experiment.jobs()]
        if seed_by_seed:
            jobs.sort(key=lambda item: trial.number if (trial := trial_of(item[1])) else 0)
        remove_leftovers(plan, experiments, jobs)
        n_to_train = sum(trial_of(job) is not None for _, job in jobs)
        print(plan.describe(task), flush=True)
        warn_if_single(plan)
        note_changes()
        done = plan.n_trials * len(experiments) - n_to_train
        note_missing_probes(plan, experiments)
        print(f"{n_to_train} trials to train, {done} already done; {workers} worker(s)", flush=True)
        progress = Progress(n_to_train, plan.n_trials, plan.config.max_iters)
        until_done.callback(progress.close)
        shared = None if args.engine == "ray" else workers  # with Ray, comparisons run on other workers than trials
        succeeded = run(
            plan, task, experiments, others, jobs, engine, progress, lambda: signals.received is not None, shared
        )
    if signals.received is not None:
        print("interrupted; rerun the same command to resume", flush=True)
        return 128 + signals.received
    return finish(args, plan, experiments, succeeded)


def finish(args, plan, experiments, succeeded) -> int:
    """Prints how the study ended and what to do next."""
    diverged = sum(r["status"] == "diverged" for e in experiments for r in e.records.values())
    if diverged:
        print(f"{diverged} trial(s) diverged; they are recorded and excluded from all pairs")
    if not succeeded:
        raise RunError("a job failed (see above); everything else is done; rerun the same command to retry it")
    print(f"done: {plan.results_dir}\nnext: {analysis_command([plan], args)}", flush=True)
    if plan.vary != ALL_STREAMS:
        command = f"python analyze_results.py results --compare {as_typed(plan.results_dir)}"
        print(f"compare with the study that varies everything: {command}", flush=True)
    return 0


if __name__ == "__main__":
    run(main)
