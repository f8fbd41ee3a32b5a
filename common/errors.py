"""What a user did wrong, apart from what went wrong.

Every module checks the input that it is given, and every script ends in the same way on a user's mistake:
one sentence, exit status 2, no traceback. That takes one exception which all modules can raise and the
scripts can tell from a bug.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """A user's mistake; scripts print it as one sentence and exit 2."""


class RunError(RuntimeError):
    """Something else went wrong: a disk, a lock, a damaged file; scripts print it and exit 1."""


def unknown(kind: str, name: str, choices: Iterable[str]) -> UserError:
    """The error for a name that is none of `choices`: it names the nearest one and lists them all.

    >>> print(unknown("activation", "gelo", ["relu", "gelu"]))
    unknown activation 'gelo'; did you mean 'gelu'? known: relu, gelu
    """
    choices = list(choices)
    by_lower_case = {choice.lower(): choice for choice in choices}
    nearest = get_close_matches(name.lower(), by_lower_case, n=1, cutoff=0.0)
    hint = f" did you mean {by_lower_case[nearest[0]]!r}?" if nearest else ""
    return UserError(f"unknown {kind} {name!r};{hint} known: {', '.join(choices)}")
