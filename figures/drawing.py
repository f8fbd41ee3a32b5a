"""Draws many figures, in several processes if possible and worthwhile; a figure that fails does not affect others."""

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

PROCESSES = 2  # at most; starting a process takes as long as drawing two figures
FEWEST = 8  # figures for which processes are worthwhile

# Raised if processes cannot be used (no space in /dev/shm or for temporary files, no semaphores, a socket path that is
# too long), or if one was killed.
NO_PROCESSES = (OSError, ImportError, NotImplementedError, BrokenProcessPool)


def begin() -> None:
    """Starts the server from which drawing processes are forked; it imports their modules while the analysis runs."""
    if _processes() > 1:
        multiprocessing.set_forkserver_preload(["plot_utils", "activations"])
        with contextlib.suppress(*NO_PROCESSES), signals_blocked():
            forkserver.ensure_running()


def _processes():
    return min(PROCESSES, usable_cpus())


def draw_all(calls: Sequence[tuple[Callable[..., Path], tuple]]) -> list[Path | Exception]:
    """The outcome of each call of a drawing function, in order: the path of the file, or the exception raised.

    Parameters
    ----------
    calls : sequence of (function, arguments)
        Module-level functions, and arguments that can be pickled.
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
    """Adds outcomes to a dictionary until an error occurs."""
    kind = matplotlib.rcParams["savefig.format"]
    pool = ProcessPoolExecutor(_processes(), multiprocessing.get_context("forkserver"), end_with_parent)
    try:
        futures = [pool.submit(_outcome_elsewhere, kind, *call) for call in calls]
        for number, future in enumerate(futures):
            outcomes[number] = future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _outcome_elsewhere(kind, function, arguments):
    """`_outcome` in another process, where the option savefig.format must be set again."""
    with matplotlib.rc_context({"savefig.format": kind}):
        return _outcome(function, arguments)


def _outcome(function, arguments):
    try:
        return function(*arguments)
    except Exception as error:
        return error
