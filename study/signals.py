"""SIGINT and SIGTERM during a study."""

import contextlib
import os
import signal
import threading

from common.startup import is_importing
from common.status import note_status


class Signals:
    """Remembers SIGINT and SIGTERM; where no trial is at work they end the program, and a second one does so at once."""

    def __init__(self):
        self.received = None
        self.at_work = False  # whether there are trials that would have to save themselves

    def __enter__(self):
        self.before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        # Python calls handlers when the main thread is done with what it is doing, and one of several signals may be
        # all that it notices. Here each is a byte in a pipe, at once.
        self.pipe, write_end = os.pipe()
        os.set_blocking(write_end, False)
        self.write_end_before = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        threading.Thread(target=self._end_at_the_second, daemon=True).start()
        return self

    def _end_at_the_second(self):
        """Without cleaning up, which may take long: files are complete or absent, and workers end with this process."""
        handled, count = bytes(self.before), 0
        while count < 2:
            number = os.read(self.pipe, 1)
            count += number in handled
        os._exit(128 + number[0])

    def _note(self, number, frame):
        if self.received is not None:
            return
        self.received = number
        note_status("state", "stopping")
        if self.at_work:
            _write(
                "\nstopping: the running trials finish their step and save themselves (a second signal ends at once)\n"
            )
            return
        _write("interrupted before any trial was at work; the same command resumes\n")
        if is_importing(frame):
            os._exit(128 + number)
        raise SystemExit(128 + number)

    def __exit__(self, *exception):
        if self.received is None:  # else the program ends now, and a further signal ends it at once
            signal.set_wakeup_fd(self.write_end_before)
            for number, handler in self.before.items():
                signal.signal(number, handler)


def _write(text):
    """To stderr, if there is one; not print(), which may be at work in the very moment of the signal."""
    with contextlib.suppress(OSError):
        os.write(2, text.encode())
