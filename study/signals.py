"""SIGINT and SIGTERM during a study."""

import contextlib
import os
import signal

from common.interrupts import is_importing
from common.status import note_status


class Signals:
    """Remembers SIGINT and SIGTERM; where no trial is at work they end the program, and a second one does so at once."""

    def __init__(self):
        self.received = None
        self.at_work = False  # whether there are trials that would have to save themselves

    def __enter__(self):
        self.before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _note(self, number, frame):
        if self.received is not None:
            # No cleaning up, which the next signal would interrupt: files are complete or absent, and workers end with us.
            os._exit(128 + number)
        self.received = number
        note_status("state", "stopping")
        if self.at_work:
            _write(
                "\nstopping: the running trials finish their step and save themselves (a second signal ends at once)\n"
            )
            return
        _write("interrupted before any trial was at work; the same command goes on\n")
        if is_importing(frame):
            os._exit(128 + number)
        raise SystemExit(128 + number)

    def __exit__(self, *exception):
        if self.received is None:  # else the program ends now, and a further signal ends it at once
            for number, handler in self.before.items():
                signal.signal(number, handler)


def _write(text):
    """To stderr, if there is one; not print(), which may be at work in the very moment of the signal."""
    with contextlib.suppress(OSError):
        os.write(2, text.encode())
