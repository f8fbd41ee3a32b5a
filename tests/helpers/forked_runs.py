"""Runs the scripts of this repository again and again without paying for Python's and PyTorch's start each time.

A server process imports everything once and forks a child for each run, with its own folder, streams and process group.
One thing differs from a real run: worker processes are forked as well, not spawned. `studies.py` talks to the server:
a request and an answer are one line of JSON each.
"""

import importlib
import json
import multiprocessing.context
import multiprocessing.resource_tracker
import multiprocessing.util
import os
import signal
import sys
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODULES = (
    "torch torch._dynamo config_cpu run_all_experiments train study.jobs study.local_engine study.experiment study.run"
    " training.evaluate training.published_trials architectures.registry scipy.stats"
)


def serve():
    sys.path[:0] = [str(ROOT)]
    modules = {name: importlib.import_module(name) for name in MODULES.split()}
    modules["torch"].set_num_threads(1)
    modules["architectures.registry"].build_model(
        "charlm", "relu", modules["config_cpu"].ConfigCPU(n_embd=8), 9
    )  # imports more
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(start(request) if "script" in request else wait(**request)), flush=True)


def start(request):
    """{"pid": of the child that carries the request out}."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = carry_out(**request)
        finally:
            os._exit(status)
    return {"pid": pid}


def wait(pid, seconds):
    """{"status": its exit status, minus the signal that killed it, or None where it still runs}."""
    end = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return {"status": os.waitstatus_to_exitcode(status)}
        if time.monotonic() > end:
            return {"status": None}
        time.sleep(0.005)


def carry_out(script, arguments, folder, output, prelude, kill_at, victim, trace):
    """In the child: the script's main, as its own process would run it; returns the exit status."""
    os.setsid()
    os.chdir(folder)
    for descriptor, path, mode in ((0, os.devnull, "r"), (1, f"{output}.out", "w"), (2, f"{output}.err", "w")):
        with open(path, mode) as file:
            os.dup2(file.fileno(), descriptor)
    sys.stdin, sys.stdout, sys.stderr = map(os.fdopen, (0, 1, 2), "rww")
    sys.stderr.reconfigure(line_buffering=True)
    multiprocessing.get_context = lambda method=None: Forking()
    multiprocessing.resource_tracker.ensure_running = lambda: None  # spawned workers alone have one
    watch_files(kill_at, victim, trace)
    exec(prelude, {})
    from common.scripts import run

    status = 1
    try:
        run(importlib.import_module(script).main, arguments)
    except SystemExit as end:
        status = end.code or 0
    except BaseException:
        traceback.print_exc()
    multiprocessing.util._exit_function()
    sys.stdout.flush()
    return status


class Forking(multiprocessing.context.ForkContext):
    """Stands for the "spawn" context: a worker does not keep the driver's ends of pipes open, as a forked one would."""

    def Pipe(self, duplex=True):
        ours, theirs = super().Pipe(duplex)
        multiprocessing.util.register_after_fork(ours, lambda connection: connection.close())
        return ours, theirs


def watch_files(kill_at, victim, trace):
    """Kills the driver, or a worker, just before its `kill_at`-th change of a study's files; notes each in `trace`."""
    driver, count = os.getpid(), 0
    descriptor = os.open(trace, os.O_WRONLY | os.O_CREAT | os.O_APPEND) if trace else None

    def note(event, path):
        nonlocal count
        if not any(part in str(path) for part in ("results", "checkpoints")):
            return
        who = "driver" if os.getpid() == driver else "worker"
        if who != victim:
            return
        count += 1
        if descriptor is not None:
            os.write(descriptor, f"{event} {path}\n".encode())
        if count == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(event, arguments):
        writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if writes or event in ("os.rename", "os.remove", "os.mkdir", "os.chmod"):
            note(event, arguments[0])

    sys.addaudithook(hook)
    real = os.fsync

    def fsync(descriptor):
        note("fsync", os.readlink(f"/proc/self/fd/{descriptor}") if os.path.exists("/proc/self/fd") else "results")
        real(descriptor)

    os.fsync = fsync


if __name__ == "__main__":
    serve()
