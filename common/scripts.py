"""What every script shares: an option parser, printing, and exit statuses."""

import argparse
import shlex
import sys

from common.errors import RunError, UserError
from common.interrupts import end_by_default


class Parser(argparse.ArgumentParser):
    """An argparse parser whose complaint is one sentence and exit status 2; options are not to be abbreviated."""

    def __init__(self, **options):
        super().__init__(allow_abbrev=False, **options)

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def say(text):
    """Prints a text, whatever the terminal: one that knows no β still gets the numbers."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    print(text, flush=True)


def as_typed(path) -> str:
    """A path as one types it in a shell: quoted where necessary, and never taken for an option.

    >>> print(as_typed("results"), as_typed("results/a study"), as_typed("-x"))
    results 'results/a study' ./-x
    """
    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


def run(main, argv=None) -> None:
    """Calls main(argv) and exits with its status; a user's mistake exits 2, and trouble with the machine 1."""
    try:
        status = main(argv)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    except BrokenPipeError:  # the reader of our output has gone: `... | head`
        sys.stderr.close()
        status = 1
    except OSError as error:  # a disk or a folder, where no module had a better sentence
        print(f"error: {error}", file=sys.stderr)
        status = 1
    end_by_default()
    sys.exit(status)
