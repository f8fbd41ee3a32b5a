"""What every script shares: an option parser, printing, and exit statuses."""

import argparse
import sys

from common.errors import RunError, UserError


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
    sys.exit(status)
