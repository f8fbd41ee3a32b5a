"""What helper processes need besides multiprocessing: an end with their parent, and a start that no signal disturbs."""

import contextlib
import multiprocessing
import os
import signal
import threading
from multiprocessing import connection


@contextlib.contextmanager
def signals_blocked():
    """Ctrl-C and SIGTERM reach this process a little later, and never a process started meanwhile that does not ignore them yet.

    A process inherits what its parent holds back, so it is safe from its first instruction on.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent():
    """From now on this process ends when its parent is gone, so that a killed program leaves no orphans."""
    threading.Thread(target=_wait_for_parents_end, daemon=True).start()


def _wait_for_parents_end():
    connection.wait([multiprocessing.parent_process().sentinel])  # type: ignore[union-attr]
    os._exit(1)
