"""A study on a Ray cluster is the study of one machine, even when a node of the cluster dies in the middle."""

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from studies import ROOT

from common import json_files, storage

pytest.importorskip("ray", reason="Ray is not installed (requirements-cluster.txt)")
pytestmark = pytest.mark.slow

SIZES = ("--n-layer=1", "--n-head=2", "--n-embd=8", "--block-size=16", "--batch-size=4", "--curve-windows=4")
STUDY = ("--activations=relu,gelu", "--trials=2", "--max-iters=600", "--eval-interval=300", *SIZES)


def command(folder, corpus, *options):
    folders = [f"--{kind}-dir={folder}/{kind}" for kind in ("results", "checkpoints", "plots")]
    return [sys.executable, str(ROOT / "run_all_experiments.py"), *STUDY, f"--corpus={corpus}", *folders, *options]


def contents(folder):
    """Everything of a study that identical studies share."""
    _, results = storage.read_study(folder / "results")
    arrays = {result["path"]: storage.read_values(result) for result in results}
    stable = [json_files.stable({k: v for k, v in result.items() if k != "path"}) for result in results]
    return stable, {
        (Path(file).name, name): values.tobytes() for file, named in arrays.items() for name, values in named.items()
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, tiny_corpus_file):
    """The study in worker processes of this machine."""
    folder = tmp_path_factory.mktemp("undisturbed")
    subprocess.run(command(folder, tiny_corpus_file), check=True, cwd=folder, capture_output=True, timeout=590)
    return contents(folder)


PORTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")


def free_ports(n):
    """n ports of this machine that nobody listens on now."""
    sockets = [socket.socket() for _ in range(n)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture
def patient_ray(monkeypatch):
    """Ray whose nodes do not give up when its helper processes take longer to start than on an idle machine.

    A node waits 15 s, and no setting changes that, for files in which helpers write the ports they chose. Here the
    ports are chosen before, and the files are there from the beginning.
    """
    from ray._private.node import Node

    start = Node.start_ray_processes

    def start_ray_processes(node):
        for name in PORTS:
            Path(node._session_dir, f"{name}_{node._node_id}").write_text(str(getattr(node._ray_params, name)))
        start(node)

    monkeypatch.setattr(Node, "start_ray_processes", start_ray_processes)
    monkeypatch.setenv("RAY_agent_register_timeout_ms", "600000")
    monkeypatch.setenv("RAY_worker_register_timeout_seconds", "600")


@pytest.fixture
def cluster(patient_ray):
    """A real cluster of two nodes on this machine; its second node is the one to kill."""
    from ray.cluster_utils import Cluster

    made = Cluster()
    try:
        made.add_node(num_cpus=1, include_dashboard=False, **dict(zip(PORTS, free_ports(4))))
        victim = made.add_node(num_cpus=1, **dict(zip(PORTS, free_ports(4))))
        made.wait_for_nodes(timeout=120)
        yield made, victim
    finally:
        made.shutdown()


def wait_for(path, words, process, seconds=400):
    """Until the log at `path` holds `words`."""
    for _ in range(int(seconds * 10)):
        if words in path.read_text():
            return
        assert process.poll() is None, f"the study ended too early:\n{path.read_text()}"
        time.sleep(0.1)
    raise AssertionError(f"no {words!r} within {seconds} s:\n{path.read_text()}")


@pytest.fixture
def start(cluster, tmp_path, tiny_corpus_file):
    """start() -> (a run of the study on the cluster, its log), which ends with the test however it ends."""
    runs, options = [], ("--engine=ray", f"--ray-address={cluster[0].address}")

    def start():
        log = tmp_path / f"log {len(runs) + 1}"
        with open(log, "w") as file:
            streams = {"stdout": file, "stderr": subprocess.STDOUT}
            runs.append(subprocess.Popen(command(tmp_path, tiny_corpus_file, *options), cwd=tmp_path, **streams))
        return runs[-1], log

    yield start
    for run in runs:
        run.kill()
        run.wait()


def test_a_study_on_a_cluster_survives_a_signal_and_the_death_of_a_node_and_is_identical(
    cluster, start, undisturbed, tmp_path
):
    made, victim = cluster
    stopped, log = start()
    wait_for(log, " trials done", stopped)
    stopped.terminate()
    assert stopped.wait(timeout=300) == 143, log.read_text()
    assert "stopping: running trials finish their step and save their state" in log.read_text()
    assert log.read_text().endswith("interrupted; rerun the same command to resume\n")
    assert "***" not in log.read_text() and "Traceback" not in log.read_text()  # Ray's own words for a signal

    study, log = start()
    wait_for(log, " trials done", study)
    made.remove_node(victim, allow_graceful=False)
    assert study.wait(timeout=500) == 0, log.read_text()
    said = log.read_text()
    assert "resumes from step" in said or "0 already done" not in said, "the stopped trials were lost"
    assert contents(tmp_path) == undisturbed


def test_a_cluster_that_is_not_there_is_a_mistake_in_one_sentence(tmp_path, tiny_corpus_file):
    options = ("--engine=ray", "--ray-address=127.0.0.1:1", "--trials=1")
    done = subprocess.run(
        command(tmp_path, tiny_corpus_file, *options), cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 2
    assert "no Ray cluster answers at 127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr
