"""SIGINT and SIGTERM during a study."""

import contextlib
import os
import signal
import threading

from common.startup import is_importing
from common.status import note_status


class Signals:
    """Records SIGINT and SIGTERM; they end the program if no trial is running, and a second one ends it at once."""

    def __init__(self):
        self.received = None
        self.trials_running = False  # whether there are trials that have to save their state

    def __enter__(self):
        self.before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        # Python calls handlers only between bytecodes of the main thread and may merge several signals into one. The
        # wakeup descriptor receives a byte per signal immediately.
        self.pipe, write_end = os.pipe()
        os.set_blocking(write_end, False)
        self.write_end_before = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        threading.Thread(target=self._end_at_the_second, daemon=True).start()
        return self

    def _end_at_the_second(self):
        """Exits without clean-up, which may take long: files are written atomically, and workers end with this process."""
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
        if self.trials_running:
            _write(
                "\nstopping: running trials finish their step and save their state (a second signal exits at once)\n"
            )
            return
        _write("interrupted before any trial was running; rerun the same command to resume\n")
        if is_importing(frame):
            os._exit(128 + number)
        raise SystemExit(128 + number)

    def __exit__(self, *exception):
        if self.received is None:  # else the program is ending, and a second signal must still end it at once
            signal.set_wakeup_fd(self.write_end_before)
            for number, handler in self.before.items():
                signal.signal(number, handler)


def _write(text):
    """Writes to stderr, if it is open; print() is not reentrant."""
    with contextlib.suppress(OSError):
        os.write(2, text.encode())
