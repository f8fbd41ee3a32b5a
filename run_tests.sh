#!/usr/bin/env bash
# Checks style and types and runs every test; sets up first what is missing.
#
#   ./run_tests.sh [options of pytest]    such as -k corpus, or -n 0 for one process (which --pdb needs)
set -eu
CDPATH="" cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")"

./setup.sh --dev

venv/bin/python -m ruff check .
venv/bin/python -m ruff format --check .
venv/bin/python -m mypy

# One process per core that this process may use, four at most, each with whole files of tests.
processes=$(venv/bin/python -c '
import os
usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
print(min(usable or 1, 4))')
exec venv/bin/python -m pytest -n "$processes" --dist loadfile "$@"
