"""What a study will take, said before it starts: seconds from short timings on this machine, and bytes of disk.

Small pieces of a trial are carried out and timed, and counted by how often a study does each.
"""

import heapq
import math
import statistics
import time

from common.errors import UserError

MEASURED_WHOLE = 3_000_000  # parameters up to which a whole step is measured on a CPU


def say_cost(args, studies, task, workers) -> None:
    """Says, of each study and of all, what is left to do and what it would take; changes nothing."""
    from common.memory import is_out_of_memory

    # What this process computed until now is mostly what each worker begins with: importing torch, making models.
    start_s = 2 * time.process_time()
    total_s = total_disk = 0.0
    for plan, facts in studies:
        jobs, n_pairs = work_left(args, plan, task, facts)
        left = sum(kind == "trial" for _, kind in jobs)
        busy = min(workers, max(len(jobs), 1))
        try:
            seconds, disk = estimate(plan, task, facts, jobs, n_pairs, busy)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise UserError(
                f"{plan.describe(task)}: not even one trial fits into the memory of this machine's {plan.device};"
                " take a smaller size or --batch-size"
            ) from error
        total_s, total_disk = total_s + start_s + seconds, total_disk + disk
        said = in_words(start_s + seconds, disk, busy)
        print(f"{plan.describe(task)}\n{plan.n_trials * len(facts)} trials, {left} of them to train: {said}")
    if len(studies) > 1:
        print(f"all {len(studies)} studies: {in_words(total_s, total_disk, workers)}")
    print(
        "(the time is that of starting, training, evaluating and comparing pairs, each measured on this machine just"
        " now; writing files, and whatever else the machine does meanwhile, is not in it)",
        flush=True,
    )


def work_left(args, plan, task, facts) -> tuple[list[tuple[str, str]], int]:
    """((architecture, kind) of each task that there is to do, the number of pairs to compare) of a study."""
    from study.experiment import Experiment
    from study.run import trials_of
    from training.identity import holds_study

    begun = not args.fresh and holds_study(plan.results_dir, plan.identity(task))
    if not args.fresh:
        holds_study(plan.checkpoints_dir, plan.identity(task), "--checkpoints-dir")
    if not begun:
        jobs = [(architecture, "trial") for architecture, _ in plan.experiments for _ in range(plan.n_trials)]
        return jobs, len(plan.experiments) * math.comb(plan.n_trials, 2)
    experiments = [Experiment(plan, task, *key, facts[key]) for key in plan.experiments]
    jobs = [
        (experiment.architecture, "trial" if trials_of(job) else job.function)
        for experiment in experiments
        for job in experiment.jobs()
        for _ in trials_of(job) or (job,)
    ]
    return jobs, sum(len(experiment.pairs_to_come()) for experiment in experiments)


def estimate(plan, task, facts, jobs, n_pairs, workers) -> tuple[float, float]:
    """(seconds, bytes of disk at the most) of what is left of a study; starting it is not included.

    Args:
      facts: (architecture, activation) -> {n_parameters, ...}.
      jobs: (architecture, kind) of each job that is left; the kind is "trial" or "predict".
      n_pairs: how many pairs are left to compare.
      workers: jobs at a time.
    """
    seconds, window_s = {}, 0.0
    for architecture in dict.fromkeys(name for name, _ in jobs):
        activation = next(act for name, act in plan.experiments if name == architecture)
        n_parameters = facts[architecture, activation]["n_parameters"]
        step_s, window_s = measure(plan, architecture, activation, n_parameters, task)
        n_windows = evaluated_examples(plan.config, task, plan.protocol)
        seconds[architecture, "trial"] = plan.config.max_iters * step_s + n_windows * window_s
        seconds[architecture, "predict"] = task.n_examples("validation", plan.config) * window_s
    pairs_s = n_pairs * measure_pair(plan, task, window_s) if n_pairs else 0.0
    at_a_time = 1 if plan.device == "cuda" else workers  # processes share a GPU; what that gains is not known here
    n_trials = sum(kind == "trial" for _, kind in jobs)
    n_examples, positions, classes = prediction_shape(plan.config, task)
    predictions = 4 * n_examples * positions * classes
    n_curve = min(plan.config.curve_windows, n_examples)
    curves = 4 * len(plan.config.curve_steps()) * n_curve * positions * classes
    checkpoint = 4 * max(fact["n_parameters"] for fact in facts.values()) + curves * (plan.protocol == "matched")
    states = 3 * checkpoint * workers  # of running trials: the weights, and two moments of each
    disk = n_trials * checkpoint + states + 2 * plan.n_trials * predictions
    return makespan([seconds[job] for job in jobs], at_a_time) + pairs_s / workers, disk


def makespan(durations, workers) -> float:
    """Seconds until `workers`, each taking the next task when it is free, have done tasks of these durations."""
    free_at = [0.0] * workers
    for seconds in durations:
        heapq.heapreplace(free_at, free_at[0] + seconds)
    return max(free_at)


def in_words(seconds, disk, workers) -> str:
    """An estimate as part of a sentence."""
    from study.progress import duration

    # two digits of a small study's disk would promise more than is known
    return f"about {duration(seconds)} with {workers} worker(s), and {max(disk / 1e9, 0.1):.1f} GB of disk at the most"


# --- how often a study does what --------------------------------------------------------------------------------------


def prediction_shape(config, task) -> tuple[int, int, int]:
    """(W, T, C) of a trained model's predictions on the validation split."""
    n_examples, positions = task.targets("validation", config).shape
    return n_examples, positions, task.n_classes


def evaluated_examples(config, task, protocol) -> float:
    """How many examples a trial sends through its model besides training it: for curves, final evaluation and texts."""
    from tasks.text import N_PROMPTS, Text

    n_examples = task.n_examples("validation", config)
    # T/2 characters after each prompt of T/4, each from all that stand before it: half a window on average
    texts = min(N_PROMPTS, n_examples) * config.block_size / 4 if isinstance(task, Text) else 0
    points = len(config.curve_steps())
    if protocol == "matched":
        curves = 2 * points * min(config.curve_windows, n_examples)
    else:
        from training.published_protocol import N_CONTEXTS

        curves = 2 * (points + 1) * config.eval_iters * config.batch_size + 2 * N_CONTEXTS
    return 2 * n_examples + curves + texts


# --- how long each takes here -----------------------------------------------------------------------------------------


def timed(function) -> float:
    """Seconds that a call takes: the median of up to five, within about a second, after one that warms up."""
    from training.workload import seconds

    function()
    taken = []
    while len(taken) < 5 and sum(taken) < 1:
        taken.append(seconds(function))
    return statistics.median(taken)


def measure(plan, architecture, activation, n_parameters, task) -> tuple[float, float]:
    """(seconds of a training step, seconds of evaluating one window).

    One process measures alone; where all cores compute, each is a little slower. On a CPU a large model is measured
    on a few sequences: a full batch of the largest would take minutes. A step of the published protocol is taken to
    be as long as a matched one, since its arithmetic is the same; one of a pack, or compiled, as long as one that is
    neither, which is rather too long.
    """
    import torch

    from common.memory import keep_freed_memory
    from training.step import synchronize
    from training.workload import Workload

    keep_freed_memory()  # as every worker does
    config, device = plan.config, plan.device
    few = device == "cpu" and n_parameters > MEASURED_WHOLE
    sequences = min(config.batch_size, 4) if few else config.batch_size
    workload = Workload(config.replace(batch_size=sequences), device, activation, architecture, task)
    step_s, evaluation_s = (
        timed(lambda work=work: (work(), synchronize(device))) for work in (workload.step, workload.evaluation)
    )
    del workload
    if device == "cuda":
        torch.cuda.empty_cache()  # the workers need it
    return step_s * config.batch_size / sequences, evaluation_s / sequences


def measure_pair(plan, task, window_s) -> float:
    """Seconds of comparing a pair, from a few windows of a trial that is compared with others, as different as trained ones.

    Args:
      window_s: seconds of evaluating one window, which the published protocol's own comparison does as well.
    """
    import numpy as np

    import metrics

    config, few = plan.config, 16
    n_examples, positions, classes = prediction_shape(config, task)
    shape = (few, positions, classes)
    rng = np.random.default_rng(0)
    others = max(1, plan.n_trials // 2)  # that a trial finds there when it is compared, on average
    noise = rng.standard_normal((1 + others, *shape), np.float32)
    logits = 2 * rng.standard_normal(shape, np.float32) + 0.15 * noise
    models = dict(enumerate(logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))))
    pairs = [(0, other) for other in range(1, 1 + others)]
    targets = rng.integers(classes, size=shape[:2])
    per_window_s = timed(lambda: metrics.compare_pairs(models, pairs, targets)) / few / others
    if plan.protocol == "matched":  # its curves are compared in brief, in a quarter of the time
        n_curve = len(config.curve_steps()) * min(config.curve_windows, n_examples)
        return per_window_s * (n_examples + n_curve / 4)
    from training.published_protocol import N_CONTEXTS

    return per_window_s * n_examples + window_s * 2 * N_CONTEXTS
