"""Trials as jobs of a Ray cluster."""

import contextlib
import shutil
import signal
import socket
import time
from collections import deque
from pathlib import Path

from common.errors import RunError, UserError, with_type
from common.files import private_folder
from common.memory import keep_freed_memory
from common.provenance import usable_cpus
from study.local_engine import MAX_ATTEMPTS, LocalEngine


class RayEngine:
    """Trials as jobs of a Ray cluster; all else in worker processes on this machine.

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
        with _handlers_kept():
            _connect(ray, address, None if on_gpu else workers * threads)  # None: every core, for every GPU its trials
        _check_room(ray, threads, on_gpu)
        self._mailbox = ray.remote(num_cpus=0)(_Mailbox).options(scheduling_strategy=_here(ray)).remote()
        self._context = ray.put(context)
        self._options = {"num_cpus": threads, "max_retries": MAX_ATTEMPTS - 1, "num_gpus": 1 / workers if on_gpu else 0}
        self._waiting = deque()
        self._running = {}  # reference -> job
        self._stopping = False

    def submit(self, job, first=False):
        """Queues a job; `first` puts it before those that wait."""
        if job.function != "trial":
            self._local.submit(job, first)
        else:
            (self._waiting.appendleft if first else self._waiting.append)(job)

    @property
    def idle(self):
        """Whether nothing runs and nothing waits."""
        return not self._waiting and not self._running and self._local.idle

    def events(self, timeout=0.5):
        """What has happened, after waiting at most about `timeout` seconds for something to happen."""
        self._assign()
        found = [] if self._local.idle else self._local.events(timeout / 5)
        running = {job.name: job for job in self._running.values()}
        for name, event in self._ray.get(self._mailbox.collect.remote()):
            if name in running:
                found.append(("progress", running[name], event))
        if not self._running:
            return found
        ready, _ = self._ray.wait(list(self._running), num_returns=1, timeout=0 if found else timeout)
        for reference in ready:
            job = self._running.pop(reference)
            try:
                kind, payload = self._ray.get(reference)
            except self._ray.exceptions.RayTaskError as error:  # not tried again: it would fail again
                kind, payload = "failed", with_type(error.cause)
            except self._ray.exceptions.RayError as error:
                kind, payload = "failed", f"Ray gave it up after {MAX_ATTEMPTS} attempts: {error}"
            found.append((kind, job, payload))
        return found

    def _assign(self):
        """Hands Ray what the cluster can run, and a little more; the rest waits here."""
        slots = int(self._ray.cluster_resources().get("CPU", 1) // self._options["num_cpus"])
        while self._waiting and not self._stopping and len(self._running) < slots + 2:
            job = self._waiting.popleft()
            remote = self._ray.remote(_run_on_cluster).options(name=job.name, **self._options)
            self._running[remote.remote(self._context, self._mailbox, job.name, job.arguments["trial"])] = job

    def stop(self):
        """Asks running trials to save themselves on their nodes and stop; waiting jobs are dropped."""
        self._stopping = True
        self._waiting.clear()
        self._local.stop()
        self._ray.get(self._mailbox.stop.remote())

    def close(self):
        """Leaves the cluster; one of our own ends."""
        self._local.close()
        self._ray.shutdown()


@contextlib.contextmanager
def _handlers_kept():
    """Afterwards SIGINT and SIGTERM are handled as before: Ray's own handlers end the driver, which then saves nothing."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _connect(ray, address, cpus):
    """Joins the cluster at `address`, taking the program along; or starts one on this machine."""
    import logging

    common = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address is not None:
        _check_answers(address)
        folders = ["venv", "data", "results", "plots", "checkpoints", "docs", "tests", ".git"]
        program = {"working_dir": str(Path(__file__).resolve().parent.parent), "excludes": folders}
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


def _curve_in_memory(trial, task, folder, outcome):
    """The points of a trial's curve as arrays: the driver may have no access to this node's files."""
    import numpy as np

    from training.curve_files import about_curve, curve_folder, read_point

    if outcome["curve"] is None:  # it diverged
        return None
    about = about_curve(trial, task, outcome["record"]["environment"])
    points = curve_folder(folder, trial.number)
    return [
        (step, np.array(read_point(points, about, step)) if isinstance(log_p, str) else log_p)
        for step, log_p in outcome["curve"]
    ]


def _run_on_cluster(context, mailbox, name, trial):
    """A trial on whatever node Ray chose."""
    import hashlib

    import ray

    keep_freed_memory()
    asked, stopped = time.monotonic(), False

    def should_stop():
        """Asks the driver now and then; where the driver has died this raises an error, which ends the trial."""
        nonlocal asked, stopped
        if time.monotonic() - asked > REPORT_EVERY_S:
            asked, stopped = time.monotonic(), ray.get(mailbox.is_stopped.remote())
        return stopped

    if ray.get(mailbox.is_stopped.remote()):  # it was told to stop before this trial had begun
        return "stopped", None
    context.prepare()
    import train
    from training.trial import REPORT_EVERY_S, Interrupted

    identity = hashlib.sha256(repr((trial, context.task.sha256)).encode()).hexdigest()
    folder = private_folder("charlm_trials") / identity
    try:
        result = train.run_protocol(
            trial,
            context.task,
            partial_path=folder / "state.pt",
            report=lambda event: mailbox.report.remote(name, event),
            should_stop=should_stop,
            probes=context.probes,
        )
        result["curve"] = _curve_in_memory(trial, context.task, folder, result)
        shutil.rmtree(folder)
        return "done", result
    except Interrupted:
        return "stopped", None
    except (Exception, SystemExit) as error:  # a user-defined model may call sys.exit
        return "failed", with_type(error)
