"""Will the activation matter for a model? A few minutes of short trials, before a full comparison of activations.

    python quick_sensitivity.py --architecture charlm --max-iters 600 --learning-rate 2e-3
    python quick_sensitivity.py --architecture-file my_model.py --minutes 10 --json answer.json
    python quick_sensitivity.py --cost --architectures 5 --activations 4 --trials 3 --hours-per-trial 1.5 --hourly-rate 2.5
    python quick_sensitivity.py --ground-truth        # trains the cases on which the test is validated (hours; resumable)
    python quick_sensitivity.py --guide               # writes docs/guide.md from them

The options describe the full training; the quick trials have a sixth of its steps. Rerun the same command to resume.
Exit status: 0 done, 1 a trial failed or a system error occurred, 2 invalid command, 130 or 143 interrupted.
"""

if __name__ == "__main__":
    import common.startup  # noqa: F401 - first: the other imports are slow

import json
import os
import signal
import threading
import time
from dataclasses import fields, replace
from pathlib import Path

from common.errors import UserError
from common.scripts import Parser, as_typed, run, say
from config import Config
from training.options import (
    add_config_options,
    add_file_options,
    add_task_options,
    check_user_files,
    choose_config,
    load_user_files,
)

TRUTH_FOLDER = Path("results/sensitivity")
OVERRUN = 1.1  # fraction of the budget after which running trials are stopped and save their state


def parser():
    p = Parser(
        prog="quick_sensitivity.py",
        description="A few minutes of short trials: will the activation matter for this model?",
        epilog="Lists take spaces or commas. The configuration fields describe the full training.",
    )
    p.add_argument("--architecture", metavar="NAME", help="default: from --architecture-file, or the task's first")
    add_file_options(p)
    add_task_options(p)
    p.add_argument(
        "--activations",
        nargs="+",
        metavar="NAME",
        help="two or more (default: relu gelu swish smelu_1_centred); with --cost: their number",
    )
    p.add_argument("--minutes", type=float, default=5.0, help="budget of the quick test (default: %(default)g)")
    p.add_argument("--workers", type=int, help="trials at a time (default: the available cores, 1 on a GPU)")
    p.add_argument("--hourly-rate", type=float, default=0.0, help="price of an hour of this machine, in any currency")
    p.add_argument("--json", type=Path, metavar="FILE", help="also write the answer as JSON")
    p.add_argument(
        "--results-dir", type=Path, help=f"default: results/quick_<architecture>; with --ground-truth: {TRUTH_FOLDER}"
    )
    other = p.add_argument_group("instead of a test")
    other.add_argument(
        "--ground-truth", action="store_true", help="train the cases on which the test is validated; resumable"
    )
    other.add_argument(
        "--dry-run", action="store_true", help="with --ground-truth: list its studies and the remaining work"
    )
    other.add_argument("--guide", action="store_true", help="write docs/guide.md and its figure from the ground truth")
    other.add_argument(
        "--cost", action="store_true", help="estimate the cost of full comparisons and the savings of the quick test"
    )
    other.add_argument("--architectures", type=int, help="with --cost: their number")
    other.add_argument("--trials", type=int, help="trials per activation of a full comparison (default: 3)")
    other.add_argument("--hours-per-trial", type=float, help="with --cost: of full training")
    add_config_options(p)
    return p


def main(argv=None) -> int:
    args = parser().parse_args(argv)
    check_options(args)
    if args.ground_truth:
        return make_ground_truth(args)
    if args.guide:
        from sensitivity.guide import write

        say(f"written: {', '.join(map(str, write()))}")
        return 0
    return print_cost(args) if args.cost else quick_test(args)


def check_options(args) -> None:
    """Raises UserError for options that contradict each other or would have no effect."""
    if args.ground_truth + args.guide + args.cost > 1:
        raise UserError("--ground-truth, --guide and --cost cannot be combined; give one of them")
    for name in ("architectures", "hours_per_trial"):
        if args.cost == (getattr(args, name) is None):
            raise UserError(
                f"--{name.replace('_', '-')} belongs to --cost; " + ("give it" if args.cost else "leave it out")
            )
    if args.dry_run and not args.ground_truth:
        raise UserError("--dry-run belongs to --ground-truth; leave it out")
    if args.eval_interval is not None or args.eval_spacing is not None:
        raise UserError(
            "--eval-interval and --eval-spacing have no effect: quick trials are evaluated at their ends; leave them out"
        )
    args.trials = 3 if args.trials is None else args.trials
    for name in ("minutes", "trials", "architectures", "hours_per_trial", "workers"):
        value = getattr(args, name)
        if value is not None and not 0 < value < float("inf"):
            raise UserError(f"--{name.replace('_', '-')} must be positive, but it is {value}")


# --- the quick test ---------------------------------------------------------------------------------------------------


def quick_test(args) -> int:
    """Trains the quick trials within the budget and prints the answers."""
    from run_all_experiments import model_facts
    from study.cost import estimate, measure
    from study.signals import Signals

    started = time.monotonic()
    with Signals() as signals:
        args, plan, full, task, user_files, defined = prepared(args)
        from sensitivity import quick, truth

        check_user_files(defined, plan.experiments, plan.config, task)
        task.check(plan.config)
        facts = model_facts(plan, task)
        architecture, activations = plan.experiments[0][0], [name for _, name in plan.experiments]
        n_parameters = next(iter(facts.values()))["n_parameters"]
        step_s, _ = measure(plan, architecture, activations[0], n_parameters, task)
        trial_s, _ = estimate(plan, task, facts, [(architecture, "trial")], 0, 1)
        seconds = (trial_s, step_s, args.workers)
        status = train_within(args, plan, facts, task, user_files, signals, started, seconds)
    if status:
        return status
    found = truth.quick_part(plan.results_dir, architecture, task, activations)
    family = "other" if "architecture" in defined else truth.cases.family_of(architecture)
    model = quick.Model(family, n_parameters, full.max_iters, task.name, tuple(activations))
    known = truth.load()
    answers = [quick.answer(outcome, found, model, known) for outcome in truth.cases.OUTCOMES]
    used_s = time.monotonic() - started
    full_trial_s = trial_s + step_s * (full.max_iters - plan.config.max_iters)
    full_h = len(activations) * args.trials * full_trial_s / 3600
    report(args, answers, found, architecture, full_h, used_s, full_command(args, full, architecture, activations))
    if args.json:
        write_json(
            args.json, {"architecture": architecture, "answers": answers, "quick": found, "minutes": used_s / 60}
        )
    return 0


def train_within(args, plan, facts, task, user_files, signals, started, seconds) -> int:
    """Trains two seeds, then as many more as the budget allows at their speed; returns 0, also when the budget runs out.

    seconds: per trial and per training step, each measured alone, and the number of workers.
    """
    from run_all_experiments import run_plan
    from sensitivity import quick

    budget_s, n_activations = 60 * args.minutes, len(plan.experiments)
    used_s = time.monotonic() - started
    seeds = quick.seeds_within(budget_s, used_s, n_activations, *seconds, finished_trials(plan))
    say(f"{quick.FEWEST_SEEDS} seeds of each activation, then up to {seeds}, within {args.minutes:g} minutes")
    signals.trials_running = True
    timer = threading.Timer(max(OVERRUN * budget_s - used_s, 1.0), os.kill, (os.getpid(), signal.SIGTERM))
    timer.daemon = True
    timer.start()
    try:
        begun = time.monotonic()
        fewest = replace(plan, n_trials=quick.FEWEST_SEEDS)
        status = run_plan(args, fewest, task, facts, args.workers, user_files, signals, seed_by_seed=True)
        now = time.monotonic()
        trial_s, step_s, workers = seconds
        each_s = max((now - begun) / quick.FEWEST_SEEDS, n_activations * trial_s / workers)  # trained before: no time
        more = quick.more_seeds(budget_s - (now - started), each_s, n_activations, step_s)
        seeds = min(seeds, quick.FEWEST_SEEDS + more)
        if status == 0 and seeds > quick.FEWEST_SEEDS:
            extended = replace(plan, n_trials=seeds)
            status = run_plan(args, extended, task, facts, args.workers, user_files, signals, seed_by_seed=True)
        return status if timer.is_alive() else 0
    finally:
        timer.cancel()


def finished_trials(plan) -> int:
    """The number of quick trials that an earlier run has trained."""
    from common import storage

    if not (plan.results_dir / storage.STUDY_FILE).exists():
        return 0
    _, results = storage.read_study(plan.results_dir)
    return sum(trial["status"] in ("complete", "diverged") for result in results for trial in result["trials"])


def prepared(args):
    """(args for the engine, Plan of the quick trials, full Config, task, user files, what they define)."""
    from architectures.registry import default_architecture
    from common.provenance import usable_cpus
    from run_all_experiments import parser as study_parser
    from sensitivity import cases, quick
    from study.choices import make_plan, split_list
    from tasks.registry import load_task

    user_files, defined = load_user_files(args)
    architecture = args.architecture or defined.get("architecture") or default_architecture(args.task)
    activations = split_list(args.activations or cases.ACTIVATIONS)
    activations += [defined["activation"]] if defined.get("activation") not in (None, *activations) else []
    config, device = choose_config(args)
    folder = args.results_dir or Path("results") / f"quick_{architecture}"
    options = [
        "--task",
        args.task,
        "--corpus",
        args.corpus,
        "--architectures",
        architecture,
        "--activations",
        *activations,
    ]
    options += [
        "--device",
        device,
        *config_options(quick.quick_config(config), args.task),
        "--compile",
        "off",
        "--trials",
        "2",
    ]
    options += ["--seed-base", str(cases.SEED_BASES["quick"]), "--results-dir", str(folder)]
    study_args = study_parser().parse_args(options)
    plan, _ = make_plan(study_args)
    if len(plan.experiments) < 2:
        raise UserError("one activation cannot be compared with itself; give two or more with --activations")
    task = load_task(args.task, args.corpus)
    if not hasattr(task, "examples"):
        raise UserError(f"the task {args.task} has no fixed batch, which the quick test's features need")
    study_args.workers = args.workers or (1 if device == "cuda" else max(1, usable_cpus() // config.threads_per_trial))
    for name in ("minutes", "trials", "hourly_rate", "json", "task", "corpus", "architecture_file", "activation_file"):
        setattr(study_args, name, getattr(args, name))
    return study_args, plan, config, task, user_files, defined


def config_options(config, task) -> list[str]:
    """Every field of a configuration that a task uses, as options of run_all_experiments.py."""
    from tasks.registry import task_class

    names = [spec.name for spec in fields(Config) if spec.name not in ("eval_iters", *task_class(task).unused)]
    return ["--config", "cpu", *(word for n in names for word in (f"--{n.replace('_', '-')}", str(getattr(config, n))))]


def full_command(args, config, architecture, activations) -> str:
    """The command that runs the full comparison."""
    from config_cpu import ConfigCPU
    from tasks.registry import task_class

    default = ConfigCPU(**task_class(args.task).defaults(args.corpus))
    words = ["python run_all_experiments.py", "--architectures", architecture, "--activations", *activations]
    words += ["--trials", str(args.trials), "--config cpu"]
    for spec in fields(Config):
        value = getattr(config, spec.name)
        if spec.name != "eval_iters" and value != getattr(default, spec.name):
            words += [f"--{spec.name.replace('_', '-')}", str(value)]
    for option in ("task", "corpus"):
        if getattr(args, option) != parser().get_default(option):
            words += [f"--{option}", as_typed(getattr(args, option))]
    for kind in ("architecture", "activation"):
        if path := getattr(args, f"{kind}_file"):
            words += [f"--{kind}-file", as_typed(path)]
    return " ".join([*words, "--results-dir", f"results/full_{architecture}"])


def report(args, answers, found, architecture, full_h, used_s, command) -> None:
    """Prints the answers, the measurements, the time of a full comparison, and its command."""
    from sensitivity import quick, truth

    seeds = len(next(iter(found["losses"].values())))
    say(f"\n{architecture}: does the choice of activation matter?")
    for one in answers:
        say("\n".join(quick.answer_lines(one, used_s / 60 / seeds)))
    say("final validation loss of the quick trials, nats:")
    say("\n".join(quick.loss_lines(found)))
    known = [f"{name} {value:.3g}" for name, value in found["features"].items() if value is not None]
    say(f"features: {', '.join(known) or 'none: fewer than two complete seeds'}")
    money = f", {full_h * args.hourly_rate:.2f} in money" if args.hourly_rate else ""
    say(
        f"this test took {used_s / 60:.1f} minutes; skipping the full comparison would save"
        f" {args.trials * len(found['losses'])} trials, about {full_h:.2f} hours of one worker{money}"
    )
    say(quick.validated_line(truth.load()))
    if any(one["verdict"] != "does not matter" for one in answers):
        say(f"full comparison: {command}")


def write_json(path, content) -> None:
    from common.files import write_atomically

    write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())


# --- instead of a test ------------------------------------------------------------------------------------------------


def print_cost(args) -> int:
    """Prints the costs of full comparisons and of the quick test (--cost)."""
    from sensitivity import cases, quick, truth

    try:
        n_activations = int(*(args.activations or [str(len(cases.ACTIVATIONS))]))
    except (TypeError, ValueError):
        raise UserError(f"with --cost, --activations takes a number, not {' '.join(args.activations)}") from None
    full_h = args.architectures * n_activations * args.trials * args.hours_per_trial
    share = cases.TRIALS["quick"] / cases.QUICK_SHARE / args.trials
    say("\n".join(quick.cost_lines(full_h, args.hourly_rate, truth.load(), share)))
    return 0


def make_ground_truth(args) -> int:
    """Trains what is missing of the ground truth, study by study."""
    from run_all_experiments import main as run_study
    from sensitivity import cases, truth
    from tasks.registry import load_task

    folder = args.results_dir or TRUTH_FOLDER
    workers = ["--workers", str(args.workers)] if args.workers else []
    if args.dry_run:
        for group in cases.GROUPS:
            for kind, rate in [*(("tuning", rate) for rate in cases.RATES), ("quick", 1e-3), ("truth", 1e-3)]:
                run_study([*cases.study_options(group, kind, folder, rate=rate), *workers, "--dry-run"])
        return 0
    status = truth.make(run_study, folder, load_task("text", "shakespeare"), workers)
    if status == 0:
        say(f"{len(truth.load(truth.FILE))} cases in {truth.FILE}")
    return status


if __name__ == "__main__":
    run(main)
