"""Runs a study's jobs in worker processes on this machine (study/ray_engine.py: on a Ray cluster).

An engine takes jobs and returns events. It writes no results and cannot affect them, since a job is a pure function of
its arguments. Events are tuples (kind, job, payload):

    ("progress", job, dict)   a running trial reports {trial, step, loss}, {trial, resumed} or {warning}
    ("done", job, result)
    ("retry", job, text)      the worker died, lost its GPU or ran out of memory; the job is queued again
    ("failed", job, text)     the job raised an error, or its workers died MAX_ATTEMPTS times
    ("stopped", job, None)    it was asked to stop and has saved its state
"""

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from collections import deque
from multiprocessing import connection, resource_tracker

from common.errors import RunError, describe, with_type
from common.memory import (
    huge_pages_in_new_processes,
    is_device_lost,
    is_out_of_memory,
    keep_freed_memory,
    release_gpu_memory,
)
from common.processes import end_with_parent, signals_blocked
from study.jobs import FUNCTIONS

MAX_ATTEMPTS = 3


# --- worker processes -----------------------------------------------------------------------------------------------


def _worker(channel, stop):
    """Main function of a worker process: runs jobs until the driver closes the channel."""
    # Only the driver decides how a run ends; Ctrl-C in a terminal reaches every process of the group.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    end_with_parent()
    keep_freed_memory()
    try:
        _work(channel, stop)
    except (EOFError, BrokenPipeError, ConnectionResetError):  # the driver has closed the channel
        os._exit(0)  # without torch's clean-up, which takes a second


def _work(channel, stop):
    """Receives jobs, runs them and sends back the results, in a loop."""
    context = channel.recv()
    context.prepare()
    from tqdm import tqdm

    from training.trial import Interrupted

    # torch.compile uses tqdm, whose default lock is a named semaphore; os._exit would leave it to the resource tracker.
    tqdm.set_lock(threading.RLock())

    def send(kind, payload):
        # Not channel.send(): with torch loaded it passes tensors as file descriptors in /dev/shm, which can run out.
        channel.send_bytes(pickle.dumps((kind, payload), pickle.HIGHEST_PROTOCOL))

    while True:
        function, arguments = channel.recv()
        try:
            result = FUNCTIONS[function](
                context, lambda event: send("progress", event), lambda: bool(stop.value), **arguments
            )
            send("done", result)
        except Interrupted:
            send("stopped", None)
        except (Exception, SystemExit) as error:  # a user-defined model may call sys.exit
            text = with_type(error)
            kind = "memory" if is_out_of_memory(error) else "lost" if is_device_lost(error) else "failed"
            send(kind, text if os.environ.get("CHARLM_TRACEBACK") is None else traceback.format_exc())
            if kind != "failed":
                return  # only ending the process reliably frees a GPU's memory, and only a new one can use the GPU again
        release_gpu_memory()


class _Worker:
    def __init__(self, spawn, stop, context):
        self.channel, theirs = spawn.Pipe()
        self.process = spawn.Process(target=_worker, args=(theirs, stop), daemon=True)
        with signals_blocked():
            self.process.start()
        theirs.close()
        # Not an argument of the process: start() would block forever if the process died before reading it.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # noticed through the sentinel
            self.channel.send(context)
        self.job = None
        self.alone = True  # whether no other job has run beside the current one


class LocalEngine:
    """Worker processes on this machine, each running one job at a time.

    When a job runs out of memory while others run, it is retried with one worker fewer from then on. If fewer processes
    than requested can be started, those are used.

    Parameters
    ----------
    workers : int
        Number of processes.
    context : Context
    """

    def __init__(self, workers, context):
        huge_pages_in_new_processes()
        self._spawn = multiprocessing.get_context("spawn")  # forking a process with threads is unsafe
        self._stop = self._spawn.RawValue("b", 0)  # not an Event: a killed worker could hold its lock
        resource_tracker.ensure_running()  # else starting the first worker would start it, unblocking signals too early
        self._context = context
        self._limit = workers
        self._workers = []
        self._waiting = deque()

    def submit(self, job, first=False):
        """Queues a job; `first`: at the front."""
        (self._waiting.appendleft if first else self._waiting.append)(job)

    @property
    def idle(self):
        """Whether no job is running or queued."""
        return not self._waiting and all(worker.job is None for worker in self._workers)

    def start(self):
        """Assigns queued jobs to workers now instead of at the next call of `events`."""
        self._assign()

    def events(self, timeout=0.5):
        """The events since the last call; waits at most `timeout` seconds for the first one."""
        self._assign()
        sources = {}
        for worker in self._workers:
            sources[worker.channel] = worker
            sources[worker.process.sentinel] = worker
        found = []
        if not sources:
            time.sleep(timeout)
        for ready in connection.wait(list(sources), timeout) if sources else []:
            worker = sources[ready]
            if worker in self._workers:
                found += self._read(worker) if ready is worker.channel else self._on_worker_death(worker)
        self._assign()
        return found

    def _assign(self):
        if self._stop.value:
            return
        for worker in [w for w in self._workers if w.job is None]:
            if len(self._workers) > self._limit:
                self._end(worker)
            elif self._waiting:
                self._give(worker, self._waiting.popleft())
        while self._waiting and len(self._workers) < self._limit:
            try:
                worker = _Worker(self._spawn, self._stop, self._context)
            except OSError as error:
                if not self._workers:
                    raise RunError(f"no worker process can be started: {describe(error)}") from error
                self._limit = len(self._workers)  # out of processes or file descriptors
                return
            self._workers.append(worker)
            self._give(worker, self._waiting.popleft())

    def _give(self, worker, job):
        worker.job = job
        busy = [w for w in self._workers if w.job is not None]
        for each in busy:
            each.alone = len(busy) == 1
        job.attempts += 1
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # noticed through the sentinel
            worker.channel.send((job.function, job.arguments))

    def _read(self, worker):
        events = []
        try:
            while worker in self._workers and worker.channel.poll():
                events.append(self._event(worker, *worker.channel.recv()))
        except (EOFError, OSError):
            events += self._on_worker_death(worker)
        return events

    def _event(self, worker, kind, payload):
        """The event for a worker's message."""
        job = worker.job
        if kind != "progress":
            worker.job = None
        if kind not in ("memory", "lost"):
            return kind, job, payload
        self._end(worker)
        if kind == "lost":
            return self._try_again(job, f"lost its GPU ({payload})")
        if worker.alone and not self._workers:
            return "failed", job, f"out of memory, even as the only job ({payload})"
        if self._stop.value:
            return "stopped", job, None
        self._limit = max(1, min(self._limit, len(self._workers)))
        job.attempts -= 1
        self._waiting.appendleft(job)
        return "retry", job, f"out of memory; from now on at most {self._limit} at a time ({payload})"

    def _on_worker_death(self, worker):
        """Handles a dead worker: reads the messages it had sent, and retries or fails its job."""
        if worker not in self._workers:
            return []
        events = []
        try:
            while worker in self._workers and worker.channel.poll():
                events.append(self._event(worker, *worker.channel.recv()))
        except (EOFError, OSError):
            pass
        if worker not in self._workers:  # out of memory: already ended, and its job is queued again
            return events
        self._workers.remove(worker)
        worker.channel.close()
        if worker.process.is_alive():  # only the channel broke
            worker.process.kill()
        worker.process.join()
        job = worker.job
        if job is None:
            return events
        return [*events, self._try_again(job, _how_it_ended(worker.process.exitcode))]

    def _try_again(self, job, how):
        """The event for a job whose worker has died."""
        if self._stop.value:
            return "stopped", job, None
        if job.attempts < MAX_ATTEMPTS:
            self._waiting.appendleft(job)
            return "retry", job, f"its worker {how}; attempt {job.attempts + 1} of {MAX_ATTEMPTS}"
        return "failed", job, f"its worker {how}, {MAX_ATTEMPTS} times"

    def stop(self):
        """Asks every running job to save its state and stop; drops queued jobs."""
        self._waiting.clear()
        self._stop.value = 1

    def _end(self, worker):
        """Ends a worker: an idle one exits when its channel closes, a busy one is killed."""
        self._workers.remove(worker)
        worker.channel.close()
        if worker.job is None:
            worker.process.join(timeout=5)
        if worker.process.is_alive():
            worker.process.kill()
        worker.process.join()

    def close(self):
        """Ends all workers."""
        for worker in list(self._workers):
            self._end(worker)


def _how_it_ended(exitcode):
    if exitcode is not None and exitcode < 0:
        name = signal.Signals(-exitcode).name
        return f"was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    return f"ended with status {exitcode}"
