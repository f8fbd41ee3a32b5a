"""Status for the calling script: lines `name=value` in the file given by CHARLM_STATUS_FILE.

    analyze=python analyze_results.py results    the command that analyzes the study; written when options are checked
    state=stopping                               the study was told to stop and is saving its state

The last line of a name counts. run_background.sh reads the file.
"""

import contextlib
import os


def note_status(name: str, value: str) -> None:
    """Appends a line to the status file, if CHARLM_STATUS_FILE is set; write errors are ignored."""
    path = os.environ.get("CHARLM_STATUS_FILE")
    if path:
        with contextlib.suppress(OSError), open(path, "a", encoding="utf-8", errors="surrogateescape") as file:
            file.write(f"{name}={value}\n")
