"""SIGINT and SIGTERM during a study."""

import os
import signal


class Signals:
    """Remembers SIGINT and SIGTERM; where no trial is at work, and at a second one, they end the program at once."""

    def __init__(self):
        self.received = None
        self.at_work = False  # whether there are trials that would have to save themselves

    def __enter__(self):
        self.before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _note(self, number, frame):
        if self.received is not None:
            raise SystemExit(128 + number)
        self.received = number
        # not print(), which may be at work in the very moment of the signal
        if not self.at_work:
            os.write(2, b"interrupted before any trial was at work; the same command goes on\n")
            raise SystemExit(128 + number)
        os.write(2, b"\nstopping: the running trials finish their step and save themselves\n")

    def __exit__(self, *exception):
        for number, handler in self.before.items():
            signal.signal(number, handler)
