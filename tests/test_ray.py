"""A study on a Ray cluster is the study of one machine, even when a node of the cluster dies in the middle."""

import subprocess
import sys
import time

import pytest
from conftest import ROOT

import storage

pytest.importorskip("ray", reason="Ray is not installed (requirements-cluster.txt)")
pytestmark = pytest.mark.slow

SIZES = ("--n-layer=1", "--n-head=2", "--n-embd=16", "--block-size=32", "--batch-size=8", "--curve-windows=5")
STUDY = ("--activations=relu,gelu", "--trials=3", "--max-iters=400", "--eval-interval=200", *SIZES)


def command(folder, corpus, *options):
    folders = [f"--{kind}-dir={folder}/{kind}" for kind in ("results", "checkpoints", "plots")]
    return [sys.executable, str(ROOT / "run_all_experiments.py"), *STUDY, f"--corpus={corpus}", *folders, *options]


def contents(folder):
    """Everything of a study that identical studies share."""
    _, results = storage.read_study(folder / "results")
    arrays = {path.name: storage.read_arrays(path) for path in sorted((folder / "results").glob("*.npz"))}
    stable = [storage.stable({k: v for k, v in result.items() if k != "path"}) for result in results]
    return stable, {(file, name): values.tobytes() for file, named in arrays.items() for name, values in named.items()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, tiny_corpus_file):
    """The study in worker processes of this machine."""
    folder = tmp_path_factory.mktemp("undisturbed")
    subprocess.run(command(folder, tiny_corpus_file), check=True, cwd=folder, capture_output=True, timeout=300)
    return contents(folder)


@pytest.fixture
def cluster():
    """A real cluster of two nodes on this machine; its second node is the one to kill."""
    from ray.cluster_utils import Cluster

    for attempt in range(3):  # Ray's own processes have 15 s to start, which a busy machine may miss
        made = Cluster()
        try:
            made.add_node(num_cpus=1, include_dashboard=False)
            victim = made.add_node(num_cpus=1)
            made.wait_for_nodes(timeout=60)
            break
        except Exception:
            made.shutdown()
            if attempt == 2:
                raise
    yield made, victim
    made.shutdown()


def wait_for(path, words, process, seconds=240):
    """Until the log at `path` holds `words`."""
    for _ in range(int(seconds * 10)):
        if words in path.read_text():
            return
        assert process.poll() is None, f"the study ended too early:\n{path.read_text()}"
        time.sleep(0.1)
    raise AssertionError(f"no {words!r} within {seconds} s:\n{path.read_text()}")


def test_a_study_on_a_cluster_survives_the_death_of_a_node_and_is_identical(
    cluster, undisturbed, tmp_path, tiny_corpus_file
):
    made, victim = cluster
    log = tmp_path / "log"
    options = ("--engine=ray", f"--ray-address={made.address}")
    with open(log, "w") as file:
        study = subprocess.Popen(
            command(tmp_path, tiny_corpus_file, *options), cwd=tmp_path, stdout=file, stderr=subprocess.STDOUT
        )
    wait_for(log, "1 of 6 trials done", study)
    made.remove_node(victim, allow_graceful=False)
    assert study.wait(timeout=400) == 0, log.read_text()
    assert contents(tmp_path) == undisturbed


def test_a_cluster_that_is_not_there_is_a_mistake_in_one_sentence(tmp_path, tiny_corpus_file):
    options = ("--engine=ray", "--ray-address=127.0.0.1:1", "--trials=1")
    done = subprocess.run(
        command(tmp_path, tiny_corpus_file, *options), cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 2
    assert "no Ray cluster answers at 127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr
