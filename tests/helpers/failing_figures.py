"""Functions that stand for the drawing of a figure, in a module that a process of its own can import."""

import multiprocessing
import os
import signal
from pathlib import Path


def draw(number):
    """Draws, wherever it runs."""
    return Path(f"{number}.png")


def draw_or_die(number):
    """Is killed in a process of its own, as by a system that has run out of memory."""
    if number == 3 and multiprocessing.parent_process() is not None:
        os.kill(os.getpid(), signal.SIGKILL)
    return draw(number)


def fail(number):
    """Meets a fault."""
    raise ZeroDivisionError(f"no {number}")
