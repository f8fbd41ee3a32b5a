"""One function in several processes at the same time: a core alone is faster than a core among busy ones."""

import multiprocessing

from common.errors import RunError
from common.memory import huge_pages_in_new_processes


def together(count, function, *arguments) -> list:
    """What `function(*arguments, gate)` returns in each of `count` new processes.

    Parameters
    ----------
    count : int
    function : a function of a module
        Calls gate.wait() between its warm-up and what it measures: all processes measure at the same time.
    arguments : what can be pickled

    Raises
    ------
    RunError
        A process ended without a result; its own message stands above.
    """
    huge_pages_in_new_processes()  # as a study's workers have them
    spawn = multiprocessing.get_context("spawn")
    gate, running = spawn.Barrier(count), []
    for _ in range(count):
        ours, theirs = spawn.Pipe()
        process = spawn.Process(target=_call, args=(theirs, gate, function, arguments))
        process.start()
        theirs.close()  # so that the end of the process is noticed
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
        gate.abort()  # the others wait for nobody
        raise
