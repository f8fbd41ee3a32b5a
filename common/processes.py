"""Helper processes: ending with their parent, and starting with signals blocked."""

import contextlib
import multiprocessing
import os
import signal
import threading
from multiprocessing import connection


@contextlib.contextmanager
def signals_blocked():
    """Blocks SIGINT and SIGTERM while a process is started.

    The new process inherits the mask, so no signal reaches it before it ignores them. This process receives them afterwards.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent():
    """Makes this process exit when its parent does, so that a killed program leaves no orphans."""
    threading.Thread(target=_wait_for_parents_end, daemon=True).start()


def _wait_for_parents_end():
    connection.wait([multiprocessing.parent_process().sentinel])  # type: ignore[union-attr]
    os._exit(1)
