"""User errors (exit status 2) and runtime errors (exit status 1), which scripts print as one sentence.

Any other exception is a bug and ends in a traceback.
"""

import errno
import os
from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """Invalid input or options; scripts print the message and exit 2."""


class RunError(RuntimeError):
    """A full disk, a lock, a damaged file; scripts print the message and exit 1."""


def unknown(kind: str, name: str, choices: Iterable[str]) -> UserError:
    """The error for a name that is not among `choices`: it suggests a similar one, if any, and lists them all.

    >>> print(unknown("activation", "gelo", ["relu", "gelu"]))
    unknown activation 'gelo'; did you mean 'gelu'? known: relu, gelu
    """
    choices = list(choices)
    by_lower_case = {choice.lower(): choice for choice in choices}
    nearest = get_close_matches(name.lower(), by_lower_case, n=1, cutoff=0.45)
    hint = f" did you mean {by_lower_case[nearest[0]]!r}?" if nearest else ""
    return UserError(f"unknown {kind} {name!r};{hint} known: {', '.join(choices)}")


_ADVICE = {
    errno.ENOSPC: "free some space, or choose another folder",
    errno.EDQUOT: "free some space, or choose another folder",
    errno.EROFS: "choose another folder",
    errno.EACCES: "choose another folder, or change its permissions",
    errno.EPERM: "choose another folder, or change its permissions",
    errno.EFBIG: "raise the file size limit (ulimit -f)",
    errno.EMFILE: "raise the open file limit (ulimit -n), or use fewer --workers",
    errno.ENFILE: "close other programs, or use fewer --workers",
    errno.EAGAIN: "raise the process limit (ulimit -u), or use fewer --workers",
    errno.ENOMEM: "use fewer --workers",
}


def cause(error: OSError) -> str:
    """The system's message, and advice.

    >>> print(cause(OSError(28, "No space left on device")))
    No space left on device; free some space, or choose another folder
    """
    advice = _ADVICE.get(error.errno or 0)
    return f"{error.strerror or error}; {advice}" if advice else error.strerror or str(error)


def describe(error: OSError) -> str:
    """`cause`, preceded by the file, or by the likely places if the system names none."""
    if error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {cause(error)}"
    if error.errno == errno.ENOSPC:
        return f"results, temporary files or /dev/shm: {cause(error)}"
    return cause(error)


def with_type(error: BaseException) -> str:
    """The name of an error's type and its message, for failed jobs.

    >>> print(with_type(ZeroDivisionError("division by zero")))
    ZeroDivisionError: division by zero
    """
    return f"{type(error).__name__}: {describe(error) if isinstance(error, OSError) else error}"
