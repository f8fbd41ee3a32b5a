"""Shared by all scripts: an option parser, printing, and exit statuses."""

import argparse
import os
import shlex
import sys

from common.errors import RunError, UserError, cause, describe
from common.startup import end_by_default


class Parser(argparse.ArgumentParser):
    """An argparse parser whose errors are one line and exit status 2; options cannot be abbreviated."""

    def __init__(self, **options):
        super().__init__(allow_abbrev=False, **options)

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def say(text) -> None:
    """Prints and flushes."""
    print(text, flush=True)


def as_typed(path) -> str:
    """A path for a shell command: quoted if necessary, and not mistaken for an option.

    >>> print(as_typed("results"), as_typed("results/a study"), as_typed("-x"))
    results 'results/a study' ./-x
    """
    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


class _FailsafeStream:
    """An output stream whose errors are recorded instead of raised (closed pipe as in `| head`, disk full under a log).

    Work must not be lost because it cannot be reported. A character that stdout cannot encode becomes "?".
    """

    def __init__(self, stream):
        self.stream, self.error = stream, None
        if stream is sys.stdout and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")

    def __getattr__(self, name):
        return getattr(self.stream, name)

    def _attempt(self, method, *arguments):
        try:
            return method(*arguments)
        except OSError as error:
            self.error = error

    def write(self, text):
        return self._attempt(self.stream.write, text)

    def flush(self):
        self._attempt(self.stream.flush)

    def close(self) -> OSError | None:
        """Flushes, and returns the error that prevented any writing, or None."""
        self.flush()
        if self.error is not None:  # else Python would report it again at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())
        return self.error


def run(main, argv=None) -> None:
    """Calls main(argv) and exits with its status; UserError exits 2, RunError and OSError exit 1.

    Output that cannot be written does not interrupt main; the status is then 1, unless the reader closed the pipe.
    """
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = output, errors = [_FailsafeStream(stream) for stream in streams]
    try:
        status = _status_of(main, argv)
        trouble = output.close()
        if trouble is not None and not isinstance(trouble, BrokenPipeError):
            print(f"error: not all output could be written: {cause(trouble)}", file=sys.stderr)
            status = status or 1
        errors.close()
    finally:
        sys.stdout, sys.stderr = streams
    end_by_default()
    sys.exit(status)


def _status_of(main, argv) -> int:
    """The exit status of main; prints errors as one line."""
    try:
        return main(argv)
    except UserError as error:
        status, text = 2, f"error: {error}"
    except RunError as error:
        status, text = 1, f"error: {error}"
    except OSError as error:  # not converted to a RunError
        status, text = 1, f"error: {describe(error)}"
    except KeyboardInterrupt:
        status, text = 130, "interrupted"
    print(text, file=sys.stderr)
    return status
