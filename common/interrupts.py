"""Ctrl-C in any script: one line and exit status 130, and at once when it comes again.

A script imports this module before everything else, where it is the program and not a module of another one. While
modules are being imported the process ends then and there: libraries in C turn a KeyboardInterrupt that reaches them
at that moment into errors of their own, with tracebacks.
"""

import os
import signal

_interrupted = False


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


if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # one that ignores Ctrl-C goes on doing so
    signal.signal(signal.SIGINT, _interrupt)
