"""What happens to a study when its workers die, its trials diverge, or somebody stops it."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import studies
from studies import SAVE_TWICE, SLOW

from common import checkpoint_files, json_files

# The worker of trial 2 dies whenever it has begun.
DEADLY = """
import os, signal
from study import jobs
real = jobs.FUNCTIONS["trial"]
def deadly(context, report, should_stop, trial, partial_path):
    if trial.number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(context, report, should_stop, trial, partial_path)
jobs.FUNCTIONS["trial"] = deadly
"""

# Trial {number} has a learning rate at which no training can stay finite.
DIVERGING = """
import dataclasses
from study import jobs
real = jobs.FUNCTIONS["trial"]
def diverging(context, report, should_stop, trial, partial_path):
    if trial.number == {number}:
        trial = dataclasses.replace(trial, config=trial.config.replace(learning_rate=1e30))
    return real(context, report, should_stop, trial, partial_path)
jobs.FUNCTIONS["trial"] = diverging
"""


@pytest.fixture(scope="module")
def study(tiny_corpus_file):
    options = (f"--corpus={tiny_corpus_file}", "--activations=relu", "--trials=3")
    return ("run_all_experiments.py", *studies.TINY, *options)


@pytest.fixture(scope="module")
def published(tiny_corpus_file):
    sizes = "--n-layer 1 --n-head 2 --n-embd 8 --block-size 16 --batch-size 4 --max-iters 4 --eval-interval 2".split()
    options = ("--protocol=published", "--eval-iters=2", f"--corpus={tiny_corpus_file}", "--activations=relu")
    return ("run_all_experiments.py", *sizes, *options, "--trials=3")


@pytest.fixture(scope="module")
def undisturbed(study, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    assert studies.run(*study, folder=folder).status == 0
    return folder


def wait_for(run, condition, seconds=240):
    """Until the condition holds, while the run is still at work."""
    end = time.monotonic() + seconds
    while not condition():
        assert run.wait(0) is None, f"the run has ended too early:\n{run.out}{run.err}"
        assert time.monotonic() < end, f"nothing within {seconds} s:\n{run.out}{run.err}"
        time.sleep(0.02)


@pytest.fixture
def starting():
    """studies.start_really, whose runs end with the test however it ends."""
    runs = []

    def start(*arguments, **options):
        runs.append(studies.start_really(*arguments, **options))
        return runs[-1]

    yield start
    for run in runs:
        if studies.processes_of(run.pid):
            run.signal_all(signal.SIGKILL)
        run.wait()


def partial(folder):
    return folder / "checkpoints" / "charlm_relu" / "trial_1.partial.pt"


# --- stopped ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("to_all", [False, True], ids=["the driver", "the whole group"])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_study_saves_itself_says_how_to_go_on_and_leaves_no_orphans(
    study, undisturbed, tmp_path, number, status, to_all
):
    started = studies.start(*study, "--workers=2", folder=tmp_path, prelude=SLOW)
    wait_for(started, lambda: len(started.workers()) == 2 and "step" in started.out)
    (started.signal_all if to_all else started.signal)(number)
    assert started.wait() == status
    assert started.wait_until_alone(seconds=0) == [], "a worker outlived its study"
    assert "stopping: running trials finish their step and save their state" in started.err
    assert started.out.endswith("interrupted; rerun the same command to resume\n")
    assert "Traceback" not in started.out + started.err
    step = checkpoint_files.read_checkpoint(partial(tmp_path))["step"]
    assert step >= 1
    again = studies.run(*study, folder=tmp_path)
    assert again.status == 0 and f"trial 1 of 3  resumes from step {step} of 6" in again.out
    assert studies.difference(undisturbed, tmp_path) is None


def test_a_second_signal_ends_a_study_at_once(study, undisturbed, tmp_path):
    started = studies.start(*study, "--workers=1", folder=tmp_path, prelude=SLOW.replace("0.25", "20"))
    wait_for(started, lambda: started.workers() and "trials to train" in started.out)
    started.signal(signal.SIGTERM)
    wait_for(started, lambda: "stopping" in started.err)
    started.signal(signal.SIGTERM)
    assert started.wait(seconds=15) == 143
    assert started.wait_until_alone(seconds=5) == []
    assert "Traceback" not in started.err
    assert studies.run(*study, folder=tmp_path).status == 0
    assert studies.difference(undisturbed, tmp_path) is None


@pytest.mark.parametrize("to_all", [False, True], ids=["the driver", "the whole group"])
def test_a_flurry_of_signals_ends_a_study_at_once(study, undisturbed, tmp_path, to_all):
    """They arrive while the second one is being dealt with."""
    started = studies.start(*study, "--workers=2", folder=tmp_path, prelude=SLOW.replace("0.25", "20"))
    wait_for(started, lambda: len(started.workers()) == 2 and "trials to train" in started.out)
    for _ in range(750):
        with contextlib.suppress(ProcessLookupError):
            (started.signal_all if to_all else started.signal)(signal.SIGINT)
        if started.wait(0.02) is not None:
            break
    assert started.status == 130
    assert started.wait_until_alone(seconds=5) == []
    assert "Traceback" not in started.out + started.err
    assert studies.run(*study, folder=tmp_path).status == 0
    assert studies.difference(undisturbed, tmp_path) is None


def spawned_workers(run):
    """The worker processes of a run that a user started (multiprocessing has a helper process of its own)."""
    listing = subprocess.run(["ps", "-A", "-ww", "-o", "pid=,args="], capture_output=True, text=True, check=True).stdout
    spawned = {int(line.split()[0]) for line in listing.splitlines() if "spawn_main" in line}
    return [pid for pid in run.workers() if pid in spawned]


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_while_workers_are_starting_leaves_neither_traceback_nor_orphan(study, tmp_path, starting):
    started = starting(*study, "--workers=2", "--max-iters=100000", folder=tmp_path)
    wait_for(started, lambda: spawned_workers(started))
    started.signal_all(signal.SIGINT)
    assert started.wait() == 130
    assert started.wait_until_alone(seconds=5) == []
    assert started.out.endswith("interrupted; rerun the same command to resume\n")
    assert "Traceback" not in started.out + started.err


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_study_that_is_stopped_while_it_imports_torch_says_so_in_one_line(study, tmp_path, starting, number, status):
    """A module that stands for torch, and takes a minute to import."""
    (tmp_path / "torch.py").write_text(
        "import time\nopen('importing', 'w').close()\nfor _ in range(600): time.sleep(0.1)\n"
    )
    started = starting(*study, folder=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    wait_for(started, (tmp_path / "importing").exists)
    started.signal(number)
    assert started.wait(seconds=15) == status
    assert (started.out, started.err) == (
        "",
        "interrupted before any trial was running; rerun the same command to resume\n",
    )
    assert not (tmp_path / "results").exists()


# --- workers that die -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_study_that_a_user_started_survives_its_workers_and_its_workers_do_not_survive_it(
    study, tmp_path_factory, starting
):
    """The one test here whose workers are spawned and killed from outside."""
    whole, broken = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("broken")
    longer = (*study, "--max-iters=1500", "--eval-interval=100")
    started = starting(*longer, "--workers=2", folder=broken)
    wait_for(started, lambda: len(spawned_workers(started)) == 2 and "  step " in started.out)
    os.kill(spawned_workers(started)[0], signal.SIGKILL)
    wait_for(started, lambda: "its worker was killed by SIGKILL (out of memory?); attempt 2 of 3" in started.out)
    started.signal(signal.SIGKILL)
    assert started.wait() == -signal.SIGKILL
    assert started.wait_until_alone(seconds=20) == []
    assert studies.run(*longer, folder=broken).status == 0
    assert studies.run(*longer, folder=whole).status == 0
    assert studies.difference(whole, broken) is None


def test_a_trial_whose_worker_dies_while_it_saves_goes_on_to_the_same_bits(study, tmp_path_factory):
    """Each worker dies in its second writing of a state; what the first one wrote takes the trial to its end."""
    two, whole, broken = (*study, "--trials=2"), tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("broken")
    assert studies.run(*two, folder=whole).status == 0
    done = studies.run(*two, "--workers=2", folder=broken, kill_at=30, victim="worker", prelude=SAVE_TWICE)
    assert done.status == 0, done.out + done.err
    assert "its worker was killed by SIGKILL (out of memory?); attempt 2 of 3" in done.out
    assert studies.difference(whole, broken) is None


def test_a_trial_whose_worker_dies_once_at_its_beginning_is_tried_again_to_the_same_bits(study, undisturbed, tmp_path):
    once = DEADLY.replace(
        "trial.number == 2:", "trial.number == 2 and not os.path.exists('died'):\n        os.mkdir('died')"
    )
    done = studies.run(*study, "--workers=2", folder=tmp_path, prelude=once)
    assert done.status == 0, done.out + done.err
    assert "charlm_relu trial 2: its worker was killed by SIGKILL (out of memory?); attempt 2 of 3" in done.out
    assert studies.difference(undisturbed, tmp_path) is None


def test_a_trial_whose_workers_die_three_times_is_failed_while_the_others_go_on(study, undisturbed, tmp_path):
    done = studies.run(*study, "--workers=2", folder=tmp_path, prelude=DEADLY)
    assert done.status == 1
    assert [f"attempt {n} of 3" in done.out for n in (2, 3, 4)] == [True, True, False]
    assert "charlm_relu trial 2 FAILED: its worker was killed by SIGKILL (out of memory?), 3 times" in done.out
    assert done.err == (
        "error: a job failed (see above); everything else is done; rerun the same command to retry it\n"
    )
    result = json_files.read_json(tmp_path / "results" / "charlm_relu.json")
    assert [record["status"] for record in result["trials"]] == ["complete", "failed", "complete"]
    assert "killed by SIGKILL" in result["trials"][1]["reason"]
    assert [(pair["trial_a"], pair["trial_b"]) for pair in result["pairs"]] == [(1, 3)]
    assert result["summary"]["val_loss"]["n"] == 2
    again = studies.run(*study, folder=tmp_path)
    assert again.status == 0
    assert "1 trials to train, 2 already done" in again.out
    assert studies.difference(undisturbed, tmp_path) is None


def test_a_complete_trial_whose_checkpoint_cannot_be_made_again_keeps_its_numbers(study, undisturbed, tmp_path):
    assert studies.run(*study, folder=tmp_path).status == 0
    before = json_files.read_json(tmp_path / "results" / "charlm_relu.json")["trials"]
    (tmp_path / "checkpoints" / "charlm_relu" / "trial_2.pt").write_bytes(b"damaged")
    assert studies.run(*study, folder=tmp_path, prelude=DEADLY).status == 1
    assert json_files.read_json(tmp_path / "results" / "charlm_relu.json")["trials"] == before
    assert studies.run(*study, folder=tmp_path).status == 0
    (tmp_path / "checkpoints" / "charlm_relu" / "trial_2.pt.aside-1").unlink()
    assert studies.difference(undisturbed, tmp_path) is None


def test_a_trial_that_raises_an_error_is_failed_at_once_with_its_words(study, tmp_path):
    prelude = (
        "import train\ndef broken(*a, **k):\n    raise ZeroDivisionError('no such luck')\ntrain.run_protocol = broken"
    )
    done = studies.run(*study, folder=tmp_path, prelude=prelude)
    assert done.status == 1
    assert "charlm_relu trial 1 FAILED: ZeroDivisionError: no such luck" in done.out
    assert "attempt" not in done.out and "Traceback" not in done.out + done.err


def test_a_worker_that_dies_while_it_starts_holds_nothing_up(tmp_path):
    """Before it has taken what it needs, which is more than a pipe holds."""
    (tmp_path / "script.py").write_text("""
import os, signal
if __name__ == "__mp_main__" and not os.path.exists("died"):
    os.mkdir("died")
    os.kill(os.getpid(), signal.SIGKILL)
if __name__ == "__main__":
    from study.jobs import Context, Job
    from study.local_engine import LocalEngine
    engine = LocalEngine(1, Context(bytes(10**7)))
    engine.submit(Job("a task", "of no known kind", {}))
    while not engine.idle:
        for kind, _, text in engine.events():
            print(kind, text)
    engine.close()
""")
    environment = {**os.environ, "PYTHONPATH": str(studies.ROOT)}
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.splitlines() == [
        "retry its worker was killed by SIGKILL (out of memory?); attempt 2 of 3",
        "failed KeyError: 'of no known kind'",
    ], done.stderr


def test_what_a_trial_gives_reaches_the_study_where_few_files_may_be_open(study, undisturbed, tmp_path):
    """Its tensors do not travel as a file and a descriptor each."""
    few = """
import os, resource
from study import jobs
real = jobs.FUNCTIONS["trial"]
def few(*arguments, **options):
    outcome = real(*arguments, **options)
    most = len(os.listdir("/proc/self/fd")) + 6
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    assert len(outcome["weights"]) > most / 2
    return outcome
jobs.FUNCTIONS["trial"] = few
"""
    done = studies.run(*study, "--workers=1", folder=tmp_path, prelude=few)
    assert done.status == 0, done.out + done.err
    assert studies.difference(undisturbed, tmp_path) is None


def test_a_worker_whose_study_is_killed_ends_without_a_word(study, undisturbed, tmp_path):
    """Here it does not notice at once, but when nobody takes what it sends."""
    unaware = SLOW + "\nfrom study import local_engine\nlocal_engine.end_with_parent = lambda: None"
    started = studies.start(*study, "--workers=2", folder=tmp_path, prelude=unaware)
    wait_for(started, lambda: len(started.workers()) == 2 and "  step " in started.out)
    started.signal(signal.SIGKILL)
    assert started.wait() == -signal.SIGKILL
    assert started.wait_until_alone() == []
    assert started.err == "" and "Traceback" not in started.out
    assert studies.run(*study, folder=tmp_path).status == 0
    assert studies.difference(undisturbed, tmp_path) is None


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_disk_under_the_log_does_not_stop_a_study(study, undisturbed, tmp_path):
    done = studies.run(*study, folder=tmp_path, prelude="import sys\nsys.stdout = open('/dev/full', 'w')")
    assert done.err == (
        "error: not all output could be written: No space left on device; free some space, or choose another folder\n"
    )
    assert done.status == 1
    assert studies.difference(undisturbed, tmp_path) is None


# No more than {most} worker processes can be started.
FEW_PROCESSES = """
import os
from study import local_engine
class Worker(local_engine._Worker):
    count = 0
    def __init__(self, *arguments):
        if Worker.count == {most}:
            raise BlockingIOError(11, os.strerror(11))
        super().__init__(*arguments)
        Worker.count += 1
local_engine._Worker = Worker
"""


def test_a_study_makes_do_with_the_processes_that_it_can_start(study, undisturbed, tmp_path):
    done = studies.run(*study, "--workers=3", folder=tmp_path, prelude=FEW_PROCESSES.format(most=1))
    assert done.status == 0, done.err
    assert studies.difference(undisturbed, tmp_path) is None


def test_a_study_that_can_start_no_process_says_what_helps(study, undisturbed, tmp_path):
    done = studies.run(*study, folder=tmp_path, prelude=FEW_PROCESSES.format(most=0))
    assert (done.status, done.err) == (
        1,
        "error: no worker process can be started: Resource temporarily unavailable; raise the process limit"
        " (ulimit -u), or use fewer --workers\n",
    )
    assert studies.run(*study, folder=tmp_path).status == 0
    assert studies.difference(undisturbed, tmp_path) is None


@pytest.mark.parametrize("function", ["compare", "predict"])
def test_a_comparison_that_fails_is_said_and_done_by_the_next_run(study, undisturbed, tmp_path, function):
    if function == "predict":  # needed by a study that is extended
        assert studies.run(*study, "--trials=2", folder=tmp_path).status == 0
    prelude = f"from study import jobs\njobs.FUNCTIONS[{function!r}] = lambda *a, **k: 1 / 0"
    done = studies.run(*study, folder=tmp_path, prelude=prelude)
    assert done.status == 1
    assert "FAILED: ZeroDivisionError" in done.out
    assert studies.run(*study, folder=tmp_path).status == 0
    assert studies.difference(undisturbed, tmp_path) is None


# --- diverged ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_diverged_trial_is_recorded_left_out_of_pairs_and_no_failure(study, undisturbed, tmp_path, number):
    done = studies.run(*study, folder=tmp_path, prelude=DIVERGING.format(number=number))
    assert done.status == 0, done.out + done.err
    assert f"trial {number} of 3  DIVERGED: the loss was no longer finite at step" in done.out
    assert "1 trial(s) diverged; they are recorded and excluded from all pairs" in done.out
    found = json_files.read_json(tmp_path / "results" / "charlm_relu.json")
    whole = json_files.read_json(undisturbed / "results" / "charlm_relu.json")
    others = [k for k in (1, 2, 3) if k != number]
    assert [r["status"] for r in found["trials"]] == ["diverged" if k == number else "complete" for k in (1, 2, 3)]
    record = found["trials"][number - 1]
    assert [record[name] for name in ("train_loss", "val_loss", "weights_sha256", "checkpoint")] == [None] * 4
    assert found["pairs"] == [p for p in whole["pairs"] if [p["trial_a"], p["trial_b"]] == others]
    assert found["summary"]["val_loss"]["n"] == 2
    again = studies.run(*study, folder=tmp_path)
    assert again.status == 0
    assert "0 trials to train, 3 already done" in again.out
    assert "1 trial(s) diverged" in again.out


def test_a_study_in_which_every_trial_diverges_ends_well_and_says_so(study, tmp_path):
    done = studies.run(*study, "--learning-rate=1e30", folder=tmp_path)
    assert done.status == 0
    assert "3 trial(s) diverged" in done.out
    result = json_files.read_json(tmp_path / "results" / "charlm_relu.json")
    assert result["pairs"] == [] and result["summary"]["val_loss"]["mean"] is None


@pytest.mark.parametrize(("number", "pairs"), [(1, [None, None, True]), (2, [None, True, None]), (3, None)])
def test_the_published_comparison_goes_on_without_a_diverged_model(published, tmp_path, number, pairs):
    """After the last trial the generator's state is needed, which one that diverged does not keep."""
    done = studies.run(*published, folder=tmp_path, prelude=DIVERGING.format(number=number))
    assert done.status == 0, done.out + done.err
    found = json_files.read_json(tmp_path / "results" / "published" / "charlm_relu.json")["published_pairs"]
    if pairs is None:
        assert found is None
    else:
        assert [pair["relative_pd"] is not None or None for pair in found] == pairs


# --- two runs ---------------------------------------------------------------------------------------------------------


def test_a_second_run_on_the_same_folder_says_who_holds_it_and_changes_nothing(study, undisturbed, tmp_path):
    first = studies.start(*study, "--workers=1", folder=tmp_path, prelude=SLOW)
    wait_for(first, (tmp_path / "checkpoints" / "study.json").exists)  # written once the folder is held
    second = studies.run(*study, folder=tmp_path)
    assert second.status == 1
    holder = f"process {first.pid} on {socket.gethostname()}"
    assert second.err == f"error: results is in use by {holder}; wait for it, or choose another --results-dir\n"
    assert first.wait() == 0
    assert studies.difference(undisturbed, tmp_path) is None
