#!/usr/bin/env bash
# Starts the study in the background, where it outlives the terminal; runs setup.sh first.
#
#   ./run_background.sh [options of run_all_experiments.py]
#
# Paths in options are relative to this folder. One run at a time; its process id is in experiment.pid. The program writes
# its state to experiment.status (CHARLM_STATUS_FILE, see common/status.py) in lines name=value.
set -eu
from=$PWD
CDPATH="" cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")" # also when called through a symbolic link

# The value of a name in a status file; empty if missing.
status_of() {
    sed -n "s/^$2=//p" "$1" 2>/dev/null | tail -n 1
}

# The command line of a process; empty if there is no such process. Some Linux systems lack ps.
command_of() {
    if [ -d /proc/self ]; then
        { tr "\0" " " <"/proc/$1/cmdline"; } 2>/dev/null || true
    else
        ps -p "$1" -o command= 2>/dev/null || true
    fi
}

# Process ids are reused, so the command line is checked.
is_a_run() {
    case "$(command_of "$1")" in *ython*run_all_experiments.py*) return 0 ;; esac
    return 1
}

# A stopped run finishes its step first; wait up to 30 s for it.
wait_for_its_end() {
    local seconds=0
    echo "run_background.sh: the last run (process $1) is finishing its step and saving its state; waiting for it"
    while is_a_run "$1"; do
        if [ "$seconds" -ge 30 ]; then
            echo "run_background.sh: the last run (process $1) is still stopping after 30 s; try again in a moment" >&2
            exit 1
        fi
        sleep 1
        seconds=$((seconds + 1))
    done
}

refuse_second_run() {
    local pid
    pid=$(cat experiment.pid 2>/dev/null || true)
    case "$pid" in "" | *[!0-9]*) return ;; esac
    is_a_run "$pid" || return 0
    if [ "$(status_of experiment.status state)" = stopping ]; then
        wait_for_its_end "$pid"
        return
    fi
    echo "run_background.sh: a run is already in progress (process $pid); stop it with: kill $pid" >&2
    echo "(if you have just done so, it finishes its step first; try again in a moment)" >&2
    exit 1
}

# flock: released by the system when the process ends for whatever reason.
wait_for_other_starts() {
    exec 9>>experiment.pid
    venv/bin/python - <<'END'
import contextlib, fcntl
with contextlib.suppress(OSError):  # a file system without locks
    fcntl.flock(9, fcntl.LOCK_EX)
END
}

refuse_second_run
./setup.sh
for option in "$@"; do
    case "$option" in
        -h | --help | --dry-run) exec venv/bin/python run_all_experiments.py "$@" ;;
    esac
done
checked=$(mktemp)
trap 'rm -f -- "$checked"' EXIT
CHARLM_STATUS_FILE=$checked venv/bin/python run_all_experiments.py --dry-run "$@"

wait_for_other_starts
refuse_second_run
log="experiments_$(date +%Y%m%d_%H%M%S).log"
: >experiment.status
set -m # a separate process group: ending this terminal or script does not end the run
CHARLM_STATUS_FILE=experiment.status PYTHONUNBUFFERED=1 \
    nohup venv/bin/python run_all_experiments.py "$@" >>"$log" 2>&1 </dev/null 9>&- &
pid=$!
set +m
echo "$pid" >experiment.pid

# Report a run that fails to start.
sleep 1
if [ -z "$(command_of "$pid")" ]; then
    status=0
    wait "$pid" || status=$?
    echo "run_background.sh: the run has already ended with exit status $status; its log, $log:"
    tail -n 20 "$log"
    exit "$status"
fi
echo
echo "The run has started (process $pid)."
[ "$from" -ef "$PWD" ] || printf '  first:        cd %q\n' "$PWD"
echo "  follow it:    tail -f $log"
echo "  stop it:      kill \$(cat experiment.pid)    (rerun the same command to resume)"
printf '  analyze it:   venv/bin/%s    (at any time)\n' "$(status_of "$checked" analyze)"
