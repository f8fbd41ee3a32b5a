"""Where a study's work runs: worker processes on this machine, or a Ray cluster.

An engine takes tasks and gives events back. It knows nothing of studies, writes no results, and cannot change them:
a task is a pure function of its arguments. Events are tuples (kind, task, payload):

    ("progress", task, dict)   a running trial reports {trial, step, loss}, {trial, resumed} or {warning}
    ("done", task, result)
    ("retry", task, text)      its worker died or lost its GPU, or memory ran out beside others; the task is tried again
    ("failed", task, text)     it raised an error, or its workers died MAX_ATTEMPTS times
    ("stopped", task, None)    it was asked to stop, and has saved itself
"""

import contextlib
import multiprocessing
import os
import pickle
import signal
import socket
import threading
import time
import traceback
from collections import deque
from dataclasses import dataclass, field
from multiprocessing import connection, resource_tracker
from pathlib import Path

from errors import RunError, UserError
from provenance import usable_cpus

MAX_ATTEMPTS = 3


@dataclass
class Task:
    """One piece of work: `function` names an entry of FUNCTIONS; arguments can be pickled."""

    name: str  # unique, and readable in a log
    function: str
    arguments: dict = field(repr=False)
    attempts: int = 0


@dataclass(frozen=True)
class Context:
    """What every task of a study shares; sent to each worker once."""

    corpus: object
    block_size: int
    user_files: tuple[tuple[str, str, bytes], ...] = ()  # (kind, path, content), as the driver read them

    def prepare(self):
        """Makes a reader's own architectures and activations known in this process."""
        if self.user_files:
            from architectures import load_user_files

            load_user_files(self.user_files)


def run_trial_task(context, report, should_stop, trial, partial_path):
    """Trains and evaluates one trial."""
    import train

    return train.run_protocol(trial, context.corpus, partial_path=partial_path, report=report, should_stop=should_stop)


def run_pack_task(context, report, should_stop, trials, wanted, partial_path):
    """Trains a pack of trials, and evaluates those that are wanted."""
    import packed

    return packed.run_pack(
        trials, wanted, context.corpus, partial_path=partial_path, report=report, should_stop=should_stop
    )


def predict_task(context, report, should_stop, checkpoint, device):
    """Predictions of a trained model, from its checkpoint: on the device of its trial, or the bits would differ."""
    import evaluate
    import train
    from config import Config

    model, content = train.load_model(checkpoint)
    config = Config(**content["config"])
    train.prepare_torch(config)
    x, _ = evaluate.evaluation_data(context.corpus, config, device).validation
    return evaluate.predict(model.to(device), x, config)


def compare_task(context, report, should_stop, members, pairs, last_position):
    """The metrics of pairs of trials."""
    import corpus as text
    import evaluate

    targets = text.evaluation_windows(context.corpus, "validation", context.block_size)[1]
    return evaluate.compare_trials(targets, members, pairs, last_position)


def published_pairs_task(context, report, should_stop, checkpoints):
    """The report's own comparison of an activation's models, in the order of its draws."""
    import published_trials

    return published_trials.compare_checkpoints(checkpoints, context.corpus)


FUNCTIONS = {
    "trial": run_trial_task,
    "pack": run_pack_task,
    "predict": predict_task,
    "compare": compare_task,
    "published_pairs": published_pairs_task,
}


# --- worker processes -----------------------------------------------------------------------------------------------


def _worker(channel, stop):
    """The life of a worker process: receive a task, run it, send what came of it."""
    # The driver alone decides how a run ends; Ctrl-C in a terminal reaches every process of the group.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    keep_freed_memory()
    try:
        context = channel.recv()
    except EOFError:
        return
    context.prepare()
    import train

    def send(kind, payload):
        # Not channel.send(): beside torch it sends each tensor as a file in /dev/shm and a descriptor, and either can run out.
        channel.send_bytes(pickle.dumps((kind, payload), pickle.HIGHEST_PROTOCOL))

    while True:
        try:
            function, arguments = channel.recv()
        except EOFError:
            os._exit(0)  # the study is over, and a second of tidying up torch would delay its end
        try:
            result = FUNCTIONS[function](
                context, lambda event: send("progress", event), lambda: bool(stop.value), **arguments
            )
            send("done", result)
        except train.Interrupted:
            send("stopped", None)
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            kind = "memory" if is_out_of_memory(error) else "lost" if is_device_lost(error) else "failed"
            send(kind, text if os.environ.get("CHARLM_TRACEBACK") is None else traceback.format_exc())
            if kind != "failed":
                return  # only the end of a process gives a GPU's memory back for certain, and only a new one can use it again
        release_gpu_memory()


def is_out_of_memory(error) -> bool:
    """Whether an error says that a GPU, or this machine, has no memory left."""
    import torch

    words = ("out of memory", "can't allocate memory", "STATUS_ALLOC_FAILED", "STATUS_ALLOCATION_FAILED")
    words += ("CUBLAS_STATUS_NOT_INITIALIZED",)  # what cuBLAS says where it finds no room to start in
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(word in str(error) for word in words)


def is_device_lost(error) -> bool:
    """Whether an error leaves this process without a GPU: after one, every later call of CUDA fails as well."""
    return "CUDA error" in str(error) and not is_out_of_memory(error)


def release_gpu_memory():
    """Gives a GPU's memory that no tensor uses back to the other processes on it, between two tasks."""
    import torch

    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _end_with_parent():
    """Ends this process when its parent is gone, so that a killed study leaves no orphans."""
    connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def keep_freed_memory():
    """Tells glibc to keep freed blocks instead of returning them: a step's arrays are as large as the last step's.

    Fetching the same megabytes from the system again costs a page fault per 4 KB, which on a virtual machine is more
    than computing with them. Does nothing where the C library is another one.
    """
    import ctypes

    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of <malloc.h>
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(mmap_threshold, 32 * 2**20)  # the largest that glibc accepts
    mallopt(trim_threshold, 2**30)


class _Worker:
    def __init__(self, spawn, stop, context):
        self.channel, theirs = spawn.Pipe()
        self.process = spawn.Process(target=_worker, args=(theirs, stop), daemon=True)
        with _signals_held_back():
            self.process.start()
        theirs.close()
        # Not among the arguments: start() would wait for ever to hand them to a process that has died before it took them.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # its sentinel will tell
            self.channel.send(context)
        self.task = None


@contextlib.contextmanager
def _signals_held_back():
    """Ctrl-C and SIGTERM reach this process a little later, and never a worker that does not ignore them yet.

    A process inherits what its parent holds back, so a worker is safe from its first instruction on.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class LocalEngine:
    """Worker processes on this machine, each running one task at a time.

    When a task runs out of memory beside others, there is one worker less from then on, and it is tried again.

    Args:
      workers: how many.
      context: a Context.
    """

    def __init__(self, workers, context):
        self._spawn = multiprocessing.get_context("spawn")  # fork and threads of a numeric library do not mix
        self._stop = self._spawn.RawValue("b", 0)  # no Event: a worker that is killed could take its lock along
        resource_tracker.ensure_running()  # or the first worker starts it, which ends _signals_held_back too early
        self._context = context
        self._limit = workers
        self._workers = []
        self._waiting = deque()

    def submit(self, task, first=False):
        """Queues a task; `first` puts it before those that wait."""
        (self._waiting.appendleft if first else self._waiting.append)(task)

    @property
    def idle(self):
        """Whether nothing runs and nothing waits."""
        return not self._waiting and all(worker.task is None for worker in self._workers)

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
                found += self._read(worker) if ready is worker.channel else self._bury(worker)
        self._assign()
        return found

    def _assign(self):
        if self._stop.value:
            return
        for worker in [w for w in self._workers if w.task is None]:
            if len(self._workers) > self._limit:
                self._end(worker)
            elif self._waiting:
                self._give(worker, self._waiting.popleft())
        while self._waiting and len(self._workers) < self._limit:
            worker = _Worker(self._spawn, self._stop, self._context)
            self._workers.append(worker)
            self._give(worker, self._waiting.popleft())

    def _give(self, worker, task):
        worker.task = task
        task.attempts += 1
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has died; its sentinel will tell
            worker.channel.send((task.function, task.arguments))

    def _read(self, worker):
        events = []
        try:
            while worker in self._workers and worker.channel.poll():
                events.append(self._event(worker, *worker.channel.recv()))
        except (EOFError, OSError):
            events += self._bury(worker)
        return events

    def _event(self, worker, kind, payload):
        """What a worker has sent, as an event."""
        task = worker.task
        if kind != "progress":
            worker.task = None
        if kind not in ("memory", "lost"):
            return kind, task, payload
        self._end(worker)
        if kind == "lost":
            return self._try_again(task, f"lost its GPU ({payload})")
        if not self._workers:
            return "failed", task, f"there is no memory for it, even alone ({payload})"
        if self._stop.value:
            return "stopped", task, None
        self._limit = max(1, min(self._limit, len(self._workers)))
        task.attempts -= 1
        self._waiting.appendleft(task)
        return "retry", task, f"no memory was left; from now on at most {self._limit} at a time ({payload})"

    def _bury(self, worker):
        """A worker has died: what it had sent still counts; the task it held is tried again, or has failed."""
        if worker not in self._workers:
            return []
        events = []
        try:
            while worker in self._workers and worker.channel.poll():
                events.append(self._event(worker, *worker.channel.recv()))
        except (EOFError, OSError):
            pass
        if worker not in self._workers:  # out of memory: it has ended, and its task waits again
            return events
        self._workers.remove(worker)
        worker.channel.close()
        if worker.process.is_alive():  # it is its channel that broke
            worker.process.kill()
        worker.process.join()
        task = worker.task
        if task is None:
            return events
        return [*events, self._try_again(task, _how_it_ended(worker.process.exitcode))]

    def _try_again(self, task, how):
        """The event of a task whose worker is gone."""
        if self._stop.value:
            return "stopped", task, None
        if task.attempts < MAX_ATTEMPTS:
            self._waiting.appendleft(task)
            return "retry", task, f"its worker {how}; attempt {task.attempts + 1} of {MAX_ATTEMPTS}"
        return "failed", task, f"its worker {how}, {MAX_ATTEMPTS} times"

    def stop(self):
        """Asks every running task to save itself and stop; waiting tasks are dropped."""
        self._waiting.clear()
        self._stop.value = 1

    def _end(self, worker):
        """Ends a worker: an idle one lets go at once, others are made to."""
        self._workers.remove(worker)
        worker.channel.close()
        if worker.task is None:
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


class RayEngine:
    """Trials as tasks of a Ray cluster; all else in worker processes on this machine.

    What a trial gives comes back through Ray and is written here, so the cluster needs no shared file system. Ray
    itself tries a trial again when its worker or node dies. A trial saves itself on its own node only: after losing the
    node it starts from its beginning, to the same bits.

    Args:
      address: of a running cluster; None starts one on this machine.
      workers: trials at a time on a cluster of our own; on a GPU, trials that share one.
      context: a Context.
      threads: CPUs of a trial.
      on_gpu: whether a trial needs its share of a GPU.
    """

    def __init__(self, address, workers, context, threads=1, on_gpu=False):
        try:
            import ray
        except ImportError:
            raise UserError("--engine ray needs Ray: pip install -r requirements-cluster.txt") from None
        self._ray = ray
        self._local = LocalEngine(usable_cpus(), context)
        _connect(ray, address, None if on_gpu else workers * threads)  # None: every core, for every GPU its trials
        _check_room(ray, threads, on_gpu)
        self._mailbox = ray.remote(num_cpus=0)(_Mailbox).options(scheduling_strategy=_here(ray)).remote()
        self._context = ray.put(context)
        self._options = {"num_cpus": threads, "max_retries": MAX_ATTEMPTS - 1, "num_gpus": 1 / workers if on_gpu else 0}
        self._waiting = deque()
        self._running = {}  # reference -> task
        self._stopping = False

    def submit(self, task, first=False):
        """Queues a task; `first` puts it before those that wait."""
        if task.function != "trial":
            self._local.submit(task, first)
        else:
            (self._waiting.appendleft if first else self._waiting.append)(task)

    @property
    def idle(self):
        """Whether nothing runs and nothing waits."""
        return not self._waiting and not self._running and self._local.idle

    def events(self, timeout=0.5):
        """What has happened, after waiting at most about `timeout` seconds for something to happen."""
        self._assign()
        found = [] if self._local.idle else self._local.events(timeout / 5)
        running = {task.name: task for task in self._running.values()}
        for name, event in self._ray.get(self._mailbox.collect.remote()):
            if name in running:
                found.append(("progress", running[name], event))
        if not self._running:
            return found
        ready, _ = self._ray.wait(list(self._running), num_returns=1, timeout=0 if found else timeout)
        for reference in ready:
            task = self._running.pop(reference)
            try:
                kind, payload = self._ray.get(reference)
            except self._ray.exceptions.RayTaskError as error:  # not tried again: it would fail again
                kind, payload = "failed", f"{type(error.cause).__name__}: {error.cause}"
            except self._ray.exceptions.RayError as error:
                kind, payload = "failed", f"Ray gave it up after {MAX_ATTEMPTS} attempts: {error}"
            found.append((kind, task, payload))
        return found

    def _assign(self):
        """Hands Ray what the cluster can run, and a little more; the rest waits here."""
        slots = int(self._ray.cluster_resources().get("CPU", 1) // self._options["num_cpus"])
        while self._waiting and not self._stopping and len(self._running) < slots + 2:
            task = self._waiting.popleft()
            remote = self._ray.remote(_run_on_cluster).options(name=task.name, **self._options)
            self._running[remote.remote(self._context, self._mailbox, task.name, task.arguments["trial"])] = task

    def stop(self):
        """Asks running trials to save themselves on their nodes and stop; waiting tasks are dropped."""
        self._stopping = True
        self._waiting.clear()
        self._local.stop()
        self._ray.get(self._mailbox.stop.remote())

    def close(self):
        """Leaves the cluster; one of our own ends."""
        self._local.close()
        self._ray.shutdown()


def _connect(ray, address, cpus):
    """Joins the cluster at `address`, taking the program along; or starts one on this machine."""
    import logging

    common = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address is not None:
        _check_answers(address)
        folders = ["venv", "data", "results", "plots", "checkpoints", "docs", "tests", ".git"]
        program = {"working_dir": str(Path(__file__).resolve().parent), "excludes": folders}
        try:
            ray.init(address, runtime_env=program, **common)
        except ConnectionError as error:
            raise _no_cluster(address) from error
        return
    for attempt in range(MAX_ATTEMPTS):
        try:
            ray.init(num_cpus=cpus, include_dashboard=False, **common)
            return
        except Exception as error:  # on a busy machine Ray's own processes can miss its start-up deadline of 15 s
            ray.shutdown()
            if attempt == MAX_ATTEMPTS - 1:
                raise RunError(f"Ray could not start on this machine: {error}") from error


def _check_room(ray, threads, on_gpu):
    """A UserError where a trial would wait for ever: no node of the cluster can hold one."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(node.get("CPU", 0) >= threads and (not on_gpu or node.get("GPU", 0)) for node in nodes):
        ray.shutdown()
        raise UserError(
            f"no node of the Ray cluster has the {threads} CPU(s){' and the GPU' * on_gpu} that a trial needs"
        )


def _check_answers(address):
    """A UserError where nobody listens at host:port, at once; Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return  # "auto", which Ray looks up
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address) from error


def _no_cluster(address):
    return UserError(f"no Ray cluster answers at {address}; start one with 'ray start --head'")


def _here(ray):
    """Schedules on the driver's own node, whose end would be the study's end anyway."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


class _Mailbox:
    """An actor: what trials report, until the driver collects it, and whether they are to stop."""

    def __init__(self):
        self.events = []  # (a trial's name, what it reported)
        self.stopped = False

    def report(self, name, event):
        if "step" in event:  # the last one tells all
            self.events = [(n, e) for n, e in self.events if n != name or "step" not in e]
        self.events.append((name, event))

    def collect(self):
        events, self.events = self.events, []
        return events

    def stop(self):
        self.stopped = True

    def is_stopped(self):
        return self.stopped


def _run_on_cluster(context, mailbox, name, trial):
    """A trial on whatever node Ray chose."""
    import hashlib
    import tempfile

    import ray

    keep_freed_memory()
    asked, stopped = time.monotonic(), False

    def should_stop():
        """Asks the driver now and then; where the driver has died this raises an error, which ends the trial."""
        nonlocal asked, stopped
        if time.monotonic() - asked > train.REPORT_EVERY_S:
            asked, stopped = time.monotonic(), ray.get(mailbox.is_stopped.remote())
        return stopped

    context.prepare()
    import train

    identity = hashlib.sha256(repr((trial, context.corpus.text_sha256)).encode()).hexdigest()
    partial = Path(tempfile.gettempdir()) / "charlm_trials" / f"{identity}.pt"
    try:
        result = train.run_protocol(
            trial,
            context.corpus,
            partial_path=partial,
            report=lambda event: mailbox.report.remote(name, event),
            should_stop=should_stop,
        )
        partial.unlink(missing_ok=True)
        return "done", result
    except train.Interrupted:
        return "stopped", None
    except Exception as error:
        return "failed", f"{type(error).__name__}: {error}"
