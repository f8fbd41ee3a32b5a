"""What every script shares: an option parser, printing, and exit statuses."""

import argparse
import os
import shlex
import sys

from common.errors import RunError, UserError, cause, in_words
from common.startup import end_by_default


class Parser(argparse.ArgumentParser):
    """An argparse parser whose complaint is one sentence and exit status 2; options are not to be abbreviated."""

    def __init__(self, **options):
        super().__init__(allow_abbrev=False, **options)

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def say(text) -> None:
    """Prints a text at once."""
    print(text, flush=True)


def as_typed(path) -> str:
    """A path as one types it in a shell: quoted where necessary, and never taken for an option.

    >>> print(as_typed("results"), as_typed("results/a study"), as_typed("-x"))
    results 'results/a study' ./-x
    """
    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


class _Lasting:
    """An output stream whose failure stops nothing: the reader has gone (`| head`), or the disk is full under a log.

    What is done is worth more than what is said about it. A character that stdout's encoding lacks becomes "?".
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
        """Writes what is left, and returns what has prevented any writing."""
        self.flush()
        if self.error is not None:  # or Python would complain of it once more at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())
        return self.error


def run(main, argv=None) -> None:
    """Calls main(argv) and exits with its status; a user's mistake exits 2, and trouble with the machine 1.

    Output that cannot be written does not end main before its work is done; then the status is 1, unless it is the
    reader that has gone.
    """
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = output, errors = [_Lasting(stream) for stream in streams]
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
    """The exit status of a script; it says what went wrong."""
    try:
        return main(argv)
    except UserError as error:
        status, text = 2, f"error: {error}"
    except RunError as error:
        status, text = 1, f"error: {error}"
    except OSError as error:  # a disk or a folder, where no module had a better sentence
        status, text = 1, f"error: {in_words(error)}"
    except KeyboardInterrupt:
        status, text = 130, "interrupted"
    print(text, file=sys.stderr)
    return status
