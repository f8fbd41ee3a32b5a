"""Where a study's work runs: worker processes on this machine, or a Ray cluster.

An engine takes jobs and gives events back. It knows nothing of studies, writes no results, and cannot change them:
a job is a pure function of its arguments. Events are tuples (kind, job, payload):

    ("progress", job, dict)   a running trial reports {trial, step, loss}, {trial, resumed} or {warning}
    ("done", job, result)
    ("retry", job, text)      its worker died or lost its GPU, or memory ran out next to others; the job is tried again
    ("failed", job, text)     it raised an error, or its workers died MAX_ATTEMPTS times
    ("stopped", job, None)    it was asked to stop, and has saved itself
"""

import contextlib
import multiprocessing
import os
import pickle
import signal
import time
import traceback
from collections import deque
from multiprocessing import connection, resource_tracker

from common.errors import RunError, in_words, with_type
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
    """The life of a worker process: work until the study is over, or gone."""
    # The driver alone decides how a run ends; Ctrl-C in a terminal reaches every process of the group.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    end_with_parent()
    keep_freed_memory()
    try:
        _work(channel, stop)
    except (
        EOFError,
        BrokenPipeError,
        ConnectionResetError,
    ):  # of the channel: nobody is there to give a job or take a result
        os._exit(0)  # at once: a second of tidying up torch would delay the study's end


def _work(channel, stop):
    """Receives a job, runs it, and sends what came of it, again and again."""
    context = channel.recv()
    context.prepare()
    from training.trial import Interrupted

    def send(kind, payload):
        # Not channel.send(): with torch loaded it sends each tensor as a file in /dev/shm and a descriptor, and either can run out.
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
                return  # only the end of a process gives a GPU's memory back for certain, and only a new one can use it again
        release_gpu_memory()


class _Worker:
    def __init__(self, spawn, stop, context):
        self.channel, theirs = spawn.Pipe()
        self.process = spawn.Process(target=_worker, args=(theirs, stop), daemon=True)
        with signals_blocked():
            self.process.start()
        theirs.close()
        # Not among the arguments: start() would wait for ever to hand them to a process that has died before it took them.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # its sentinel will tell
            self.channel.send(context)
        self.job = None


class LocalEngine:
    """Worker processes on this machine, each running one job at a time.

    When a job runs out of memory next to others, one worker fewer runs from then on, and it is retried. Where not
    even that many processes can be started, those that could do the work.

    Args:
      workers: how many.
      context: a Context.
    """

    def __init__(self, workers, context):
        huge_pages_in_new_processes()
        self._spawn = multiprocessing.get_context("spawn")  # fork and threads of a numeric library do not mix
        self._stop = self._spawn.RawValue("b", 0)  # no Event: a worker that is killed could take its lock along
        resource_tracker.ensure_running()  # or the first worker starts it, which ends signals_blocked too early
        self._context = context
        self._limit = workers
        self._workers = []
        self._waiting = deque()

    def submit(self, job, first=False):
        """Queues a job; `first` puts it before those that wait."""
        (self._waiting.appendleft if first else self._waiting.append)(job)

    @property
    def idle(self):
        """Whether nothing runs and nothing waits."""
        return not self._waiting and all(worker.job is None for worker in self._workers)

    def start(self):
        """Gives workers what waits now, and not only at the next `events`."""
        self._assign()

    def events(self, timeout=0.5):
        """What has happened, after waiting at most `timeout` seconds for something to happen."""
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
                    raise RunError(f"no worker process can be started: {in_words(error)}") from error
                self._limit = len(self._workers)  # the machine has no room for more processes, or files between them
                return
            self._workers.append(worker)
            self._give(worker, self._waiting.popleft())

    def _give(self, worker, job):
        worker.job = job
        job.attempts += 1
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has died; its sentinel will tell
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
        """What a worker has sent, as an event."""
        job = worker.job
        if kind != "progress":
            worker.job = None
        if kind not in ("memory", "lost"):
            return kind, job, payload
        self._end(worker)
        if kind == "lost":
            return self._try_again(job, f"lost its GPU ({payload})")
        if not self._workers:
            return "failed", job, f"there is no memory for it, even alone ({payload})"
        if self._stop.value:
            return "stopped", job, None
        self._limit = max(1, min(self._limit, len(self._workers)))
        job.attempts -= 1
        self._waiting.appendleft(job)
        return "retry", job, f"no memory was left; from now on at most {self._limit} at a time ({payload})"

    def _on_worker_death(self, worker):
        """A worker has died: what it had sent still counts; the job it held is tried again, or has failed."""
        if worker not in self._workers:
            return []
        events = []
        try:
            while worker in self._workers and worker.channel.poll():
                events.append(self._event(worker, *worker.channel.recv()))
        except (EOFError, OSError):
            pass
        if worker not in self._workers:  # out of memory: it has ended, and its job waits again
            return events
        self._workers.remove(worker)
        worker.channel.close()
        if worker.process.is_alive():  # it is its channel that broke
            worker.process.kill()
        worker.process.join()
        job = worker.job
        if job is None:
            return events
        return [*events, self._try_again(job, _how_it_ended(worker.process.exitcode))]

    def _try_again(self, job, how):
        """The event of a job whose worker is gone."""
        if self._stop.value:
            return "stopped", job, None
        if job.attempts < MAX_ATTEMPTS:
            self._waiting.appendleft(job)
            return "retry", job, f"its worker {how}; attempt {job.attempts + 1} of {MAX_ATTEMPTS}"
        return "failed", job, f"its worker {how}, {MAX_ATTEMPTS} times"

    def stop(self):
        """Asks every running job to save itself and stop; waiting jobs are dropped."""
        self._waiting.clear()
        self._stop.value = 1

    def _end(self, worker):
        """Ends a worker: an idle one lets go at once, others are made to."""
        self._workers.remove(worker)
        worker.channel.close()
        if worker.job is None:
            worker.process.join(timeout=5)
        if worker.process.is_alive():
            worker.process.kill()
        worker.process.join()

    def close(self):
        """Ends the workers: those that are idle at once, others by force."""
        for worker in list(self._workers):
            self._end(worker)


def _how_it_ended(exitcode):
    if exitcode is not None and exitcode < 0:
        name = signal.Signals(-exitcode).name
        return f"was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    return f"ended with status {exitcode}"


# --- Ray --------------------------------------------------------------------------------------------------------------
