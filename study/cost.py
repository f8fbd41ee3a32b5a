"""What a study will take, said before it starts: seconds from short timings on this machine, and bytes of disk.

A module of its own because an estimate is neither the choice of a study (run_all_experiments.py) nor its execution
(study/experiment.py): it carries out small pieces of a trial, times them, and adds up how often a study does each.
"""

import heapq
import math
import statistics
import time

MEASURED_WHOLE = 3_000_000  # parameters up to which a whole step is measured on a CPU


def estimate(plan, corpus, facts, tasks, n_pairs, workers) -> tuple[float, float]:
    """(seconds, bytes of disk at the most) of what is left of a study; starting it is not included.

    Args:
      facts: (architecture, activation) -> {n_parameters, ...}.
      tasks: (architecture, kind) of each task that is left; the kind is "trial" or "predict".
      n_pairs: how many pairs are left to compare.
      workers: tasks at a time.
    """
    seconds, window_s = {}, 0.0
    for architecture in dict.fromkeys(name for name, _ in tasks):
        activation = next(act for name, act in plan.experiments if name == architecture)
        n_parameters = facts[architecture, activation]["n_parameters"]
        step_s, window_s = measure(plan, architecture, activation, n_parameters, corpus.vocabulary_size)
        n_windows = evaluated_windows(plan.config, corpus, plan.protocol)
        seconds[architecture, "trial"] = plan.config.max_iters * step_s + n_windows * window_s
        seconds[architecture, "predict"] = windows_of_a_split(plan.config, corpus) * window_s
    pairs_s = n_pairs * measure_pair(plan, corpus, window_s) if n_pairs else 0.0
    at_a_time = 1 if plan.device == "cuda" else workers  # processes share a GPU; what that gains is not known here
    n_trials = sum(kind == "trial" for _, kind in tasks)
    predictions = 4 * len(corpus.validation) * corpus.vocabulary_size
    curves = 4 * curve_points(plan.config) * plan.config.curve_windows * plan.config.block_size * corpus.vocabulary_size
    checkpoint = 4 * max(fact["n_parameters"] for fact in facts.values()) + curves * (plan.protocol == "matched")
    states = 3 * checkpoint * workers  # of running trials: the weights, and two moments of each
    disk = n_trials * checkpoint + states + 2 * plan.n_trials * predictions
    return makespan([seconds[task] for task in tasks], at_a_time) + pairs_s / workers, disk


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


def windows_of_a_split(config, corpus) -> int:
    """W: on how many windows of each split a trained model is evaluated."""
    from tasks import corpus as text

    return text.n_windows(len(corpus.validation), config.block_size)


def curve_points(config) -> int:
    """The points of a trial's curves under the matched protocol: every eval_interval steps, and the last."""
    return math.ceil(config.max_iters / config.eval_interval) + 1


def evaluated_windows(config, corpus, protocol) -> float:
    """How many windows a trial sends through its model besides training it: for curves, figures and texts."""
    from training.evaluate import N_PROMPTS

    n_windows = windows_of_a_split(config, corpus)
    # T/2 characters after each prompt of T/4, each from all that stand before it: half a window on average
    texts = min(N_PROMPTS, n_windows) * config.block_size / 4
    if protocol == "matched":
        curves = 2 * curve_points(config) * min(config.curve_windows, n_windows)
    else:
        from training.published_protocol import N_CONTEXTS

        curves = 2 * (curve_points(config) + 1) * config.eval_iters * config.batch_size + 2 * N_CONTEXTS
    return 2 * n_windows + curves + texts


# --- how long each takes here -----------------------------------------------------------------------------------------


def timed(function) -> float:
    """Seconds that a call takes: the median of up to five, within about a second, after one that warms up."""
    function()
    taken = []
    while len(taken) < 5 and sum(taken) < 1:
        started = time.perf_counter()
        function()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def measure(plan, architecture, activation, n_parameters, vocabulary_size) -> tuple[float, float]:
    """(seconds of a training step, seconds of evaluating one window).

    One process measures alone; where all cores compute, each is a little slower. On a CPU a large model is measured
    on a few sequences: a full batch of the largest would take minutes. A step of the published protocol is taken to
    be as long as a matched one, since its arithmetic is the same; one of a pack, or compiled, as long as one that is
    neither, which is rather too long.
    """
    import torch

    from common.memory import keep_freed_memory
    from training.step import wait_for
    from training.workload import Workload

    keep_freed_memory()  # as every worker does
    config, device = plan.config, plan.device
    few = device == "cpu" and n_parameters > MEASURED_WHOLE
    sequences = min(config.batch_size, 4) if few else config.batch_size
    workload = Workload(config.replace(batch_size=sequences), device, activation, vocabulary_size, architecture)
    step_s, evaluation_s = (
        timed(lambda work=work: (work(), wait_for(device))) for work in (workload.step, workload.evaluation)
    )
    del workload
    if device == "cuda":
        torch.cuda.empty_cache()  # the workers need it
    return step_s * config.batch_size / sequences, evaluation_s / sequences


def measure_pair(plan, corpus, window_s) -> float:
    """Seconds of comparing a pair, from a few windows of a trial that is compared with others, as different as trained ones.

    Args:
      window_s: seconds of evaluating one window, which the published protocol's own comparison does as well.
    """
    import numpy as np

    import metrics

    config, few = plan.config, 16
    shape = (few, config.block_size, corpus.vocabulary_size)
    rng = np.random.default_rng(0)
    others = max(1, plan.n_trials // 2)  # that a trial finds there when it is compared, on average
    noise = rng.standard_normal((1 + others, *shape), np.float32)
    logits = 2 * rng.standard_normal(shape, np.float32) + 0.15 * noise
    models = dict(enumerate(logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))))
    pairs = [(0, other) for other in range(1, 1 + others)]
    targets = rng.integers(corpus.vocabulary_size, size=shape[:2])
    n_windows = windows_of_a_split(config, corpus)
    per_window_s = timed(lambda: metrics.compare_pairs(models, pairs, targets)) / few / others
    if plan.protocol == "matched":  # its curves are compared in brief, in a quarter of the time
        n_curve = curve_points(config) * min(config.curve_windows, n_windows)
        return per_window_s * (n_windows + n_curve / 4)
    from training.published_protocol import N_CONTEXTS

    return per_window_s * n_windows + window_s * 2 * N_CONTEXTS
