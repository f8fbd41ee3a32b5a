#!/usr/bin/env bash
# Starts the study in the background, where it outlives the terminal; sets up first what is missing.
#
#   ./run_background.sh [options of run_all_experiments.py]
#
# Paths in options are relative to this folder. One run at a time: experiment.pid names it.
set -eu
cd "$(dirname "${BASH_SOURCE[0]}")"

# The command line of a process; nothing where there is no such process. Some Linux systems come without ps.
command_of() {
    if [ -d /proc/self ]; then
        { tr "\0" " " <"/proc/$1/cmdline"; } 2>/dev/null || true
    else
        ps -p "$1" -o command= 2>/dev/null || true
    fi
}

# A process id outlives its process and is given out again, so the command line decides.
refuse_second_run() {
    local pid
    pid=$(cat experiment.pid 2>/dev/null || true)
    case "$pid" in "" | *[!0-9]*) return ;; esac
    case "$(command_of "$pid")" in
        *ython*run_all_experiments.py*)
            echo "run_background.sh: a run is at work already (process $pid); stop it with: kill $pid" >&2
            exit 1
            ;;
    esac
}

# The lock is the system's own: it ends with the process that holds it, however that ends.
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
venv/bin/python run_all_experiments.py --dry-run "$@"

wait_for_other_starts
refuse_second_run
log="experiments_$(date +%Y%m%d_%H%M%S).log"
set -m # a process group of its own: what ends this terminal or this script does not end the run
PYTHONUNBUFFERED=1 nohup venv/bin/python run_all_experiments.py "$@" >>"$log" 2>&1 </dev/null 9>&- &
pid=$!
set +m
echo "$pid" >experiment.pid

# A run that cannot start says why within its first moments.
sleep 1
if [ -z "$(command_of "$pid")" ]; then
    status=0
    wait "$pid" || status=$?
    echo "run_background.sh: the run has ended already, with exit status $status; its log, $log:"
    tail -n 20 "$log"
    exit "$status"
fi
echo
echo "The run has started (process $pid)."
echo "  follow it:    tail -f $log"
echo "  stop it:      kill \$(cat experiment.pid)    (the same command again goes on where it stopped)"
echo "  its results:  venv/bin/python analyze_results.py, also halfway"
