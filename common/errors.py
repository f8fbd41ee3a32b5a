"""What a user did wrong, apart from what went wrong.

Every module checks the input that it is given, and every script ends in the same way on a user's mistake:
one sentence, exit status 2, no traceback. That takes one exception which all modules can raise and the
scripts can tell from a bug.
"""

import errno
import os
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


_WHAT_HELPS = {
    errno.ENOSPC: "make room, or choose another folder",
    errno.EDQUOT: "make room, or choose another folder",
    errno.EROFS: "choose another folder",
    errno.EACCES: "choose another folder, or change who may write there",
    errno.EPERM: "choose another folder, or change who may write there",
    errno.EFBIG: "raise the limit on the size of a file (ulimit -f)",
    errno.EMFILE: "raise the limit on open files (ulimit -n), or use fewer --workers",
    errno.ENFILE: "close other programs, or use fewer --workers",
    errno.EAGAIN: "raise the limit on processes (ulimit -u), or use fewer --workers",
    errno.ENOMEM: "use fewer --workers",
}


def cause(error: OSError) -> str:
    """What the system complains of, and what helps.

    >>> print(cause(OSError(28, "No space left on device")))
    No space left on device; make room, or choose another folder
    """
    helps = _WHAT_HELPS.get(error.errno or 0)
    return f"{error.strerror or error}; {helps}" if helps else error.strerror or str(error)


def in_words(error: OSError) -> str:
    """The same after the name of the file, or after where it may be if the system names none."""
    if error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {cause(error)}"
    if error.errno == errno.ENOSPC:
        return f"results, temporary files or /dev/shm: {cause(error)}"
    return cause(error)


def with_type(error: BaseException) -> str:
    """An error in words after the name of its type, as of a job that has failed.

    >>> print(with_type(ZeroDivisionError("division by zero")))
    ZeroDivisionError: division by zero
    """
    return f"{type(error).__name__}: {in_words(error) if isinstance(error, OSError) else error}"
