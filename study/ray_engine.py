"""Runs a study's trials on a Ray cluster."""

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
    """Runs trials on a Ray cluster, and all other jobs in worker processes on this machine.

    Outcomes are returned through Ray and written by the driver, so no shared file system is needed. Ray retries a trial
    when its worker or node dies. A trial's state is saved on its own node only: if the node is lost, the trial starts
    over, and its result is bit-identical.

    Parameters
    ----------
    address : str or None
        Of a running cluster; None starts one on this machine.
    workers : int
        Trials at a time on a cluster started here; with `on_gpu`, trials per GPU.
    context : Context
    threads : int
        CPUs per trial.
    on_gpu : bool
        Whether a trial needs a share of a GPU.
    """

    def __init__(self, address, workers, context, threads=1, on_gpu=False):
        try:
            import ray
        except ImportError:
            raise UserError("--engine ray needs Ray: pip install -r requirements-cluster.txt") from None
        self._ray = ray
        self._local = LocalEngine(usable_cpus(), context)
        with _handlers_kept():
            _connect(ray, address, None if on_gpu else workers * threads)  # None: every core; GPUs limit the trials
        _check_room(ray, threads, on_gpu)
        self._mailbox = ray.remote(num_cpus=0)(_Mailbox).options(scheduling_strategy=_on_this_node(ray)).remote()
        self._context = ray.put(context)
        self._options = {"num_cpus": threads, "max_retries": MAX_ATTEMPTS - 1, "num_gpus": 1 / workers if on_gpu else 0}
        self._waiting = deque()
        self._running = {}  # reference -> job
        self._stopping = False

    def submit(self, job, first=False):
        """Queues a job; `first`: at the front."""
        if job.function != "trial":
            self._local.submit(job, first)
        else:
            (self._waiting.appendleft if first else self._waiting.append)(job)

    @property
    def idle(self):
        """Whether no job is running or queued."""
        return not self._waiting and not self._running and self._local.idle

    def events(self, timeout=0.5):
        """The events since the last call; waits about `timeout` seconds at most for the first one."""
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
            except self._ray.exceptions.RayTaskError as error:  # not retried: it would fail again
                kind, payload = "failed", with_type(error.cause)
            except self._ray.exceptions.RayError as error:
                kind, payload = "failed", f"Ray gave up after {MAX_ATTEMPTS} attempts: {error}"
            found.append((kind, job, payload))
        return found

    def _assign(self):
        """Submits to Ray as many jobs as the cluster can run plus two; the rest stay queued here."""
        slots = int(self._ray.cluster_resources().get("CPU", 1) // self._options["num_cpus"])
        while self._waiting and not self._stopping and len(self._running) < slots + 2:
            job = self._waiting.popleft()
            remote = self._ray.remote(_run_on_cluster).options(name=job.name, **self._options)
            self._running[remote.remote(self._context, self._mailbox, job.name, job.arguments["trial"])] = job

    def stop(self):
        """Asks running trials to save their state and stop; drops queued jobs."""
        self._stopping = True
        self._waiting.clear()
        self._local.stop()
        self._ray.get(self._mailbox.stop.remote())

    def close(self):
        """Disconnects from the cluster, or shuts down one started here."""
        self._local.close()
        self._ray.shutdown()


@contextlib.contextmanager
def _handlers_kept():
    """Restores the handlers of SIGINT and SIGTERM: Ray's would end the driver before anything is saved."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _connect(ray, address, cpus):
    """Connects to the cluster at `address` and ships the program to it, or starts a cluster on this machine."""
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
        except Exception as error:  # on a busy machine Ray's processes can miss their start-up deadline of 15 s
            ray.shutdown()
            if attempt == MAX_ATTEMPTS - 1:
                raise RunError(f"Ray could not start on this machine: {error}") from error


def _check_room(ray, threads, on_gpu):
    """Raises UserError if no node has the resources of a trial, which Ray would let wait forever."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(node.get("CPU", 0) >= threads and (not on_gpu or node.get("GPU", 0)) for node in nodes):
        ray.shutdown()
        raise UserError(
            f"no node of the Ray cluster has the {threads} CPU(s){' and the GPU' * on_gpu} that a trial needs"
        )


def _check_answers(address):
    """Raises UserError if nothing listens at host:port; Ray itself would retry for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return  # "auto", resolved by Ray
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address) from error


def _no_cluster(address):
    return UserError(f"no Ray cluster answers at {address}; start one with 'ray start --head'")


def _on_this_node(ray):
    """Schedules on the driver's node: if that fails, the study ends anyway."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


class _Mailbox:
    """An actor that collects what trials report and tells them whether to stop."""

    def __init__(self):
        self.events = []  # (a trial's name, what it reported)
        self.stopped = False

    def report(self, name, event):
        if "step" in event:  # only the latest step matters
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
    """A trial's curve points as arrays, since the driver may have no access to this node's files."""
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
    """Runs a trial on the node that Ray chose."""
    import hashlib

    import ray

    keep_freed_memory()
    asked, stopped = time.monotonic(), False

    def should_stop():
        """Asks the driver at intervals; raises an error, ending the trial, if the driver has died."""
        nonlocal asked, stopped
        if time.monotonic() - asked > REPORT_EVERY_S:
            asked, stopped = time.monotonic(), ray.get(mailbox.is_stopped.remote())
        return stopped

    if ray.get(mailbox.is_stopped.remote()):  # stopped before this trial began
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
