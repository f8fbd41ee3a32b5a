#!/usr/bin/env bash
# Checks style and types and runs all tests; runs setup.sh first.
#
#   ./run_tests.sh [options of pytest]    such as -k corpus, or -n 0 for a single process (needed for --pdb)
set -eu
CDPATH="" cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")"

./setup.sh --dev

venv/bin/python -m ruff check .
venv/bin/python -m ruff format --check .
venv/bin/python -m mypy

# One process per available core, at most four; each runs whole test files.
processes=$(venv/bin/python -c '
import os
usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
print(min(usable or 1, 4))')
exec venv/bin/python -m pytest -n "$processes" --dist loadfile "$@"
