"""Estimates the time and disk space that a study needs, before it starts.

Parts of a trial (a step, an evaluation, a comparison) are timed on this machine and multiplied by their number.
"""

import heapq
import math
import statistics
import time

from common.errors import UserError

MEASURED_WHOLE = 3_000_000  # parameters up to which a full batch is timed on a CPU


def print_cost(args, studies, task, workers) -> None:
    """Prints the remaining work of each study and of all, with the estimated time and disk space."""
    from common.memory import is_out_of_memory

    # This process has so far done about what each worker starts with: importing torch, building models.
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
                " choose a smaller size or --batch-size"
            ) from error
        total_s, total_disk = total_s + start_s + seconds, total_disk + disk
        cost = describe_cost(start_s + seconds, disk, busy)
        print(f"{plan.describe(task)}\n{plan.n_trials * len(facts)} trials, {left} of them to train: {cost}")
    if len(studies) > 1:
        print(f"all {len(studies)} studies: {describe_cost(total_s, total_disk, workers)}")
    print(
        "(estimated from short timings of starting, training, evaluating and comparing on this machine; excludes"
        " writing files and other load)",
        flush=True,
    )


def work_left(args, plan, task, facts) -> tuple[list[tuple[str, str]], int]:
    """((architecture, kind) of each remaining job, number of pairs to compare) of a study."""
    from study.experiment import Experiment
    from training.identity import holds_study

    begun = not args.fresh and holds_study(plan.results_dir, plan.identity(task))
    if not args.fresh:
        holds_study(plan.checkpoints_dir, plan.identity(task), "--checkpoints-dir")
    if not begun:
        jobs = [(architecture, "trial") for architecture, _ in plan.experiments for _ in range(plan.n_trials)]
        return jobs, len(plan.experiments) * math.comb(plan.n_trials, 2)
    experiments = [Experiment(plan, task, *key, facts[key]) for key in plan.experiments]
    jobs = [(experiment.architecture, job.function) for experiment in experiments for job in experiment.jobs()]
    return jobs, sum(len(experiment.pending_pairs()) for experiment in experiments)


def estimate(plan, task, facts, jobs, n_pairs, workers) -> tuple[float, float]:
    """Estimates the remaining work of a study, without starting it.

    Parameters
    ----------
    facts : dict
        (architecture, activation) -> {n_parameters, ...}.
    jobs : list of (str, str)
        (architecture, kind) of each remaining job; the kind is "trial" or "predict".
    n_pairs : int
        Pairs to compare.
    workers : int
        Jobs at a time.

    Returns
    -------
    seconds, bytes : float
        Time, and an upper bound on disk space.
    """
    seconds, window_s = {}, 0.0
    for architecture in dict.fromkeys(name for name, _ in jobs):
        activation = next(act for name, act in plan.experiments if name == architecture)
        n_parameters = facts[architecture, activation]["n_parameters"]
        step_s, window_s = measure(plan, architecture, activation, n_parameters, task)
        n_windows = evaluated_examples(plan.config, task, plan.protocol)
        probes_s = len(plan.config.curve_steps()) * measure_probes(plan, architecture, activation, task)
        seconds[architecture, "trial"] = plan.config.max_iters * step_s + n_windows * window_s + probes_s
        seconds[architecture, "predict"] = task.n_examples("validation", plan.config) * window_s
    pairs_s = n_pairs * measure_pair(plan, task, window_s) if n_pairs else 0.0
    at_a_time = 1 if plan.device == "cuda" else workers  # as if processes sharing a GPU gained nothing: an overestimate
    n_trials = sum(kind == "trial" for _, kind in jobs)
    n_examples, positions, classes = prediction_shape(plan.config, task)
    predictions = 4 * n_examples * positions * classes
    n_curve = min(plan.config.curve_windows, n_examples)
    curves = 4 * len(plan.config.curve_steps()) * n_curve * positions * classes
    checkpoint = 4 * max(fact["n_parameters"] for fact in facts.values()) + curves * (plan.protocol == "matched")
    states = 3 * checkpoint * workers  # of running trials: weights and two moments
    disk = n_trials * checkpoint + states + 2 * plan.n_trials * predictions
    return makespan([seconds[job] for job in jobs], at_a_time) + pairs_s / workers, disk


def makespan(durations, workers) -> float:
    """Seconds until `workers` have done jobs of these durations, each taking the next job when it is free."""
    free_at = [0.0] * workers
    for seconds in durations:
        heapq.heapreplace(free_at, free_at[0] + seconds)
    return max(free_at)


def describe_cost(seconds, disk, workers) -> str:
    """An estimate as part of a sentence."""
    from study.progress import duration

    return f"about {duration(seconds)} with {workers} worker(s), at most {max(disk / 1e9, 0.1):.1f} GB of disk"


# --- counts ---------------------------------------------------------------------------------------------------------


def prediction_shape(config, task) -> tuple[int, int, int]:
    """(W, T, C) of a trained model's predictions on the validation split."""
    n_examples, positions = task.targets("validation", config).shape
    return n_examples, positions, task.n_classes


def evaluated_examples(config, task, protocol) -> float:
    """Number of examples that a trial evaluates: for curves, final evaluation and generated texts."""
    from tasks.text import N_PROMPTS, Text

    n_examples = task.n_examples("validation", config)
    # T/2 characters after each prompt of T/4, each from its whole prefix: half a window on average
    texts = min(N_PROMPTS, n_examples) * config.block_size / 4 if isinstance(task, Text) else 0
    points = len(config.curve_steps())
    if protocol == "matched":
        curves = 2 * points * min(config.curve_windows, n_examples)
    else:
        from training.published_protocol import N_CONTEXTS

        curves = 2 * (points + 1) * config.eval_iters * config.batch_size + 2 * N_CONTEXTS
    return 2 * n_examples + curves + texts


# --- timings --------------------------------------------------------------------------------------------------------


def timed(function) -> float:
    """Seconds that a call takes: the median of up to five within about a second, after a warm-up call."""
    from training.workload import seconds

    function()
    taken = []
    while len(taken) < 5 and sum(taken) < 1:
        taken.append(seconds(function))
    return statistics.median(taken)


def measure(plan, architecture, activation, n_parameters, task) -> tuple[float, float]:
    """(seconds per training step, seconds per evaluated window).

    Measured by a single process; with all cores busy, each is a little slower. On a CPU, large models are timed on a few
    sequences, since a full batch would take minutes. A step of the published protocol is assumed to take as long as a
    matched one (the arithmetic is the same), and a compiled step as long as an ordinary one (an overestimate).
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


def measure_probes(plan, architecture, activation, task) -> float:
    """Seconds that the study's probes take at a curve point; timed once, since some take long."""
    if not plan.probes:
        return 0.0
    from diagnostics import probes
    from training.workload import Workload, seconds

    learner = Workload(plan.config, plan.device, activation, architecture, task).learner
    return seconds(lambda: probes.measure_probes(plan.probes, learner.model, task, learner.trial, 0))


def measure_pair(plan, task, window_s) -> float:
    """Seconds per compared pair, timed on a few windows of random predictions that differ about as trained models do.

    window_s: seconds per evaluated window; the published protocol's comparison evaluates, too.
    """
    import numpy as np

    import metrics

    config, few = plan.config, 16
    n_examples, positions, classes = prediction_shape(config, task)
    shape = (few, positions, classes)
    rng = np.random.default_rng(0)
    others = max(1, plan.n_trials // 2)  # trials that a new one is compared with, on average
    noise = rng.standard_normal((1 + others, *shape), np.float32)
    logits = 2 * rng.standard_normal(shape, np.float32) + 0.15 * noise
    models = dict(enumerate(logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))))
    pairs = [(0, other) for other in range(1, 1 + others)]
    targets = rng.integers(classes, size=shape[:2])
    per_window_s = timed(lambda: metrics.compare_pairs(models, pairs, targets)) / few / others
    if plan.protocol == "matched":  # curve points are compared by fewer metrics, in a quarter of the time
        n_curve = len(config.curve_steps()) * min(config.curve_windows, n_examples)
        return per_window_s * (n_examples + n_curve / 4)
    from training.published_protocol import N_CONTEXTS

    return per_window_s * n_examples + window_s * 2 * N_CONTEXTS
