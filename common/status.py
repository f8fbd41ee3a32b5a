"""Notes for the program that started this one: lines `name=value` in the file that CHARLM_STATUS_FILE names.

    analyze=python analyze_results.py results    the command that analyzes the study; known once the options are checked
    state=stopping                               the study was told to stop and is saving itself

Of several lines with one name the last one holds. run_background.sh reads them.
"""

import contextlib
import os


def note_status(name: str, value: str) -> None:
    """Adds a line to the status file, if there is to be one; a file that cannot be written is no reason to stop."""
    path = os.environ.get("CHARLM_STATUS_FILE")
    if path:
        with contextlib.suppress(OSError), open(path, "a", encoding="utf-8", errors="surrogateescape") as file:
            file.write(f"{name}={value}\n")
