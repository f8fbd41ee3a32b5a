"""What comes first in any script, before it imports what takes long: streams that are open, and Ctrl-C in one line.

A script imports this module before everything else, where it is the program and not a module of another one.

Streams: where standard input, output or error was closed (`2>&-`), the next file to be opened would take its place,
and get what is written there. It reads and writes nothing instead.

Ctrl-C ends a script with one line and exit status 130, and at once when it comes again. While modules are being
imported the process ends then and there: libraries in C turn a KeyboardInterrupt that reaches them at that moment into
errors of their own, with tracebacks.
"""

import os
import signal
import sys

_interrupted = False


def open_closed_streams():
    """Opens /dev/null in the place of each standard stream that was closed when the process began."""
    for number, (name, mode) in enumerate({"stdin": "r", "stdout": "w", "stderr": "w"}.items()):
        if getattr(sys, name) is None:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
            os.set_inheritable(number, True)
            setattr(sys, name, os.fdopen(number, mode, closefd=False))


def is_importing(frame) -> bool:
    """Whether the code in `frame` runs because a module is being imported."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _interrupt(number, frame):
    global _interrupted
    if _interrupted or is_importing(frame):
        if not _interrupted:
            os.write(2, b"interrupted\n")
        os._exit(128 + number)
    _interrupted = True
    raise KeyboardInterrupt


def end_by_default():
    """From here on Ctrl-C ends the process as it ends any program: its work is done, and Python tidies up."""
    if signal.getsignal(signal.SIGINT) is _interrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


open_closed_streams()
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # one that ignores Ctrl-C keeps doing so
    signal.signal(signal.SIGINT, _interrupt)
