"""Runs a function in several processes at the same time, since a single busy core is faster than all at once."""

import multiprocessing

from common.errors import RunError
from common.memory import huge_pages_in_new_processes


def together(count, function, *arguments) -> list:
    """The results of `function(*arguments, gate)` in each of `count` new processes.

    Parameters
    ----------
    count : int
    function : callable
        A module-level function that calls gate.wait() between warm-up and measurement, so that all processes measure at
        the same time.
    *arguments
        Can be pickled.

    Returns
    -------
    list

    Raises
    ------
    RunError
        A process ended without a result; its traceback has been printed.
    """
    huge_pages_in_new_processes()  # as in a study's workers
    spawn = multiprocessing.get_context("spawn")
    gate, running = spawn.Barrier(count), []
    for _ in range(count):
        ours, theirs = spawn.Pipe()
        process = spawn.Process(target=_call, args=(theirs, gate, function, arguments))
        process.start()
        theirs.close()  # so that the end of the process closes the pipe
        running.append((process, ours))
    try:
        return [channel.recv() for _, channel in running]
    except EOFError:
        raise RunError(f"a process of {function.__name__} ended without a result (see above)") from None
    finally:
        for process, _ in running:
            process.join()


def _call(channel, gate, function, arguments):
    try:
        channel.send(function(*arguments, gate))
    except BaseException:
        gate.abort()  # releases the others
        raise
