"""Draws many figures, by a few processes where that is worth it and possible; one that fails costs no other."""

import contextlib
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import forkserver
from pathlib import Path

import matplotlib

from common.processes import end_with_parent, signals_blocked
from common.provenance import usable_cpus

PROCESSES = 2  # at the most: drawing is what takes the time, and starting a process takes as long as two figures
FEWEST = 8  # figures for which processes are worth it

# What a machine lacks where processes cannot work together: room in /dev/shm or for temporary files, semaphores, a path
# short enough for a socket. One that was killed breaks the others off.
NO_PROCESSES = (OSError, ImportError, NotImplementedError, BrokenProcessPool)


def begin() -> None:
    """Starts the server that the drawing processes are forked from: it imports what they need while the analysis runs."""
    if _processes() > 1:
        multiprocessing.set_forkserver_preload(["plot_utils", "activations"])
        with contextlib.suppress(*NO_PROCESSES), signals_blocked():
            forkserver.ensure_running()


def _processes():
    return min(PROCESSES, usable_cpus())


def draw_all(calls: Sequence[tuple[Callable[..., Path], tuple]]) -> list[Path | Exception]:
    """The outcome of each call of a drawing function, in order: the file's path, or the error that it raised.

    Parameters
    ----------
    calls : sequence of (function, arguments)
        Functions of modules, and arguments that can be pickled.
    """
    outcomes: dict[int, Path | Exception] = {}
    if _processes() > 1 and len(calls) >= FEWEST:
        with contextlib.suppress(*NO_PROCESSES):
            _draw_in_processes(calls, outcomes)
    for number, (function, arguments) in enumerate(calls):
        if number not in outcomes:
            outcomes[number] = _outcome(function, arguments)
    return [outcomes[number] for number in range(len(calls))]


def _draw_in_processes(calls, outcomes):
    """Adds the outcomes to a dictionary, as far as it comes."""
    kind = matplotlib.rcParams["savefig.format"]
    pool = ProcessPoolExecutor(_processes(), multiprocessing.get_context("forkserver"), end_with_parent)
    try:
        futures = [pool.submit(_outcome_elsewhere, kind, *call) for call in calls]
        for number, future in enumerate(futures):
            outcomes[number] = future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _outcome_elsewhere(kind, function, arguments):
    """In a process of its own, which knows nothing of the options."""
    with matplotlib.rc_context({"savefig.format": kind}):
        return _outcome(function, arguments)


def _outcome(function, arguments):
    try:
        return function(*arguments)
    except Exception as error:
        return error
