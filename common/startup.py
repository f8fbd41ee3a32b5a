"""Start-up of every script: opens closed standard streams and handles Ctrl-C, before slow imports.

A script imports this module first, if it runs as the main program.

Streams: if standard input, output or error is closed (`2>&-`), the next file opened would get its descriptor and receive
its output. /dev/null takes its place.

Ctrl-C ends a script with one line and exit status 130; a second one ends it immediately. During imports the process
exits at once, since C extensions turn a KeyboardInterrupt into errors of their own, with tracebacks.
"""

import os
import signal
import sys

_interrupted = False


def open_closed_streams():
    """Opens /dev/null for each standard stream that was closed when the process started."""
    for number, (name, mode) in enumerate({"stdin": "r", "stdout": "w", "stderr": "w"}.items()):
        if getattr(sys, name) is None:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
            os.set_inheritable(number, True)
            setattr(sys, name, os.fdopen(number, mode, closefd=False))


def is_importing(frame) -> bool:
    """Whether the code in `frame` runs during an import."""
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
    """Restores the default handling of Ctrl-C, when main has returned."""
    if signal.getsignal(signal.SIGINT) is _interrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


open_closed_streams()
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else Ctrl-C is ignored, as under nohup
    signal.signal(signal.SIGINT, _interrupt)
