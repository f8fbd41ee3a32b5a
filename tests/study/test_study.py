"""A study is a pure function of what was asked for: however many workers, in whatever order, killed however often."""

import os
import pickle
import random
import re
import shutil
import signal
import time

import numpy as np
import pytest
import studies
import torch

from common import array_files, checkpoint_files, json_files, storage
from common import files as files_module

# The steps that trials train, one line each: which steps a run has really done, and which it went on from.
WATCH_STEPS = """
import randomness
real = randomness.generator
def watched(seed, stream, step, *rest):
    if stream == "data":
        with open("steps", "a") as file:
            file.write(f"{seed}:{step} ")
    return real(seed, stream, step, *rest)
randomness.generator = watched
"""

SHUFFLE = """
import random, study
real = study.run
def shuffled(plan, corpus, experiments, others, tasks, *rest):
    random.Random({seed}).shuffle(tasks)
    return real(plan, corpus, experiments, others, tasks, *rest)
study.run = shuffled
"""


def arguments(corpus, *options):
    return ("run_all_experiments.py", *studies.TINY, f"--corpus={corpus}", *options)


def run(folder, corpus, *options, **how):
    return studies.run(*arguments(corpus, *options), folder=folder, **how)


PROTOCOLS = {"matched": ("--activations=relu", "--trials=3"), "published": ("--activations=relu", "--trials=2")}


@pytest.fixture(scope="module")
def command(tiny_corpus_file):
    """protocol -> the arguments of a small study under it."""
    published = [x for x in studies.TINY if x not in ("--config", "cpu", "--curve-windows")][:-1]
    published = ("run_all_experiments.py", *published, "--protocol=published", "--eval-iters=2")
    corpus = f"--corpus={tiny_corpus_file}"
    return {
        "matched": (*arguments(tiny_corpus_file), *PROTOCOLS["matched"]),
        "published": (*published, corpus, *PROTOCOLS["published"]),
    }


def home(folder, protocol, kind="results"):
    """Where a study of this protocol puts its results, or its checkpoints."""
    return folder / kind / ("published" if protocol == "published" else "")


@pytest.fixture(scope="module")
def undisturbed(command, tmp_path_factory):
    """protocol -> a folder with the study, run at once by one worker."""
    folders = {}
    for protocol, study in command.items():
        folders[protocol] = tmp_path_factory.mktemp(protocol)
        done = studies.run(*study, "--workers=1", folder=folders[protocol])
        assert done.status == 0, done.err
    return folders


def files(folder):
    """The bytes of everything that a study has written."""
    paths = [p for kind in ("results", "checkpoints") for p in (folder / kind).rglob("*") if p.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths if path.name != ".lock"}


def copy(source, target):
    for name, data in files(source).items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes(data)


# --- bit for bit ------------------------------------------------------------------------------------------------------


def test_a_study_names_the_models_that_it_compares(undisturbed):
    """What the tests below compare is a whole study: every pair, every metric, every array."""
    content = studies.content(undisturbed["matched"])
    result = content["results/charlm_relu.json"]
    assert [record["status"] for record in result["trials"]] == ["complete"] * 3
    assert [(pair["trial_a"], pair["trial_b"]) for pair in result["pairs"]] == [(1, 2), (1, 3), (2, 3)]
    assert len({record["weights_sha256"] for record in result["trials"]}) == 3
    assert {f"results/charlm_relu.json: {name}" for name in ("trial_1_loss", "pair_2_3_relative_pd")} < set(content)
    assert "checkpoints/charlm_relu/trial_1.curve/6.safetensors" in content
    assert (
        len(json_files.read_json(home(undisturbed["published"], "published") / "charlm_relu.json")["published_pairs"])
        == 1
    )


@pytest.mark.parametrize("protocol", ["matched", "published"])
def test_two_workers_and_another_order_give_the_same_bits(command, undisturbed, tmp_path, protocol):
    for workers, seed in ((2, 1), (1, 2), (3, 3)):
        folder = tmp_path / str(seed)
        folder.mkdir()
        done = studies.run(*command[protocol], f"--workers={workers}", folder=folder, prelude=SHUFFLE.format(seed=seed))
        assert done.status == 0, done.err
        assert studies.difference(undisturbed[protocol], folder) is None


@pytest.mark.slow
def test_the_command_that_a_user_types_gives_the_same_bits_with_spawned_workers(command, undisturbed, tmp_path):
    done = studies.run(*command["matched"], "--workers=2", folder=tmp_path, really=True)
    assert done.status == 0, done.err
    assert done.err == ""
    assert studies.difference(undisturbed["matched"], tmp_path) is None


def test_another_seed_is_another_study_with_other_numbers(command, undisturbed, tmp_path):
    """The comparison that the tests here rely on can fail."""
    assert studies.run(*command["matched"], "--seed-base=7", folder=tmp_path).status == 0
    assert studies.difference(undisturbed["matched"], tmp_path) is not None


def test_the_pairs_of_an_activation_are_compared_before_the_next_one_is_trained(tiny_corpus_file, tmp_path):
    """A study that is killed later keeps them."""
    options = ("--activations=relu,gelu", "--trials=2", "--workers=1")
    assert run(tmp_path, tiny_corpus_file, *options, trace=tmp_path / "trace").status == 0
    written = re.findall(r"rename \S*?\.(trial_\d\.pt|charlm_\w+\.json)", (tmp_path / "trace").read_text())
    one = ["trial_1.pt", "charlm_relu.json", "trial_2.pt", "charlm_relu.json", "charlm_relu.json"]  # the last: its pair
    assert written == [*one, *(name.replace("relu", "gelu") for name in one)]


# --- killed -----------------------------------------------------------------------------------------------------------


def kill_at_random(study, folder, rng):
    """Starts a study and kills it at a random moment; returns its exit status, 0 where it was faster."""
    if rng.random() < 0.6:  # just before one of the driver's changes of the files, early ones more often
        return studies.run(*study, folder=folder, kill_at=1 + int(rng.expovariate(1 / 12))).wait()
    started = studies.start(*study, folder=folder)
    time.sleep(rng.uniform(0.05, 0.8))
    if started.wait(0) is None:
        (started.signal_all if rng.random() < 0.5 else started.signal)(signal.SIGKILL)
    status = started.wait()
    assert not started.wait_until_alone(), "workers outlived their killed driver"
    return status


@pytest.mark.slow
@pytest.mark.parametrize(("protocol", "seed", "least"), [("matched", 1, 8), ("matched", 2, 8), ("published", 3, 8)])
def test_a_study_killed_at_many_random_moments_ends_as_an_undisturbed_one(
    command, undisturbed, tmp_path, protocol, seed, least
):
    rng, kills, round_ = random.Random(seed), 0, 0
    while kills < least:  # a study that comes to its end before enough kills is followed by another one
        folder = tmp_path / str(round_)
        folder.mkdir()
        round_ += 1
        for _ in range(40):
            status = kill_at_random((*command[protocol], f"--workers={rng.choice((1, 2))}"), folder, rng)
            assert status in (0, -signal.SIGKILL)
            if status == 0:
                break
            kills += 1
        assert studies.run(*command[protocol], folder=folder).status == 0
        assert studies.difference(undisturbed[protocol], folder) is None


# What the driver writes, as (first or last?, the change of files in the trace that it is killed before). The points of the
# curves are written by workers, whose deaths have tests of their own.
PHASES = {
    "study.json": (0, r"rename .study\.json"),
    "a trial's checkpoint": (0, r"rename .trial_2\.pt"),
    "a trial's predictions": (0, r"rename .trial_2\.predictions\.safetensors"),
    "a trial's values": (0, r"rename .trial_2\.safetensors"),
    "a trial's result": (0, r"rename .charlm_relu\.json"),
    "forgetting its running state": (0, r"remove trial_2\.partial"),
    "the pairs' values": (-1, r"rename .pairs_"),
    "the pairs' result": (-1, r"rename .charlm_relu\.json"),
    "forgetting predictions": (-1, r"remove trial_.*predictions"),
    "the summary": (-1, r"rename .all_experiments_summary\.json"),
}


def change_numbers(trace):
    """phase -> the number of the driver's change of files that it is killed before."""
    lines = [
        f"{line.split()[0].removeprefix('os.')} {line.rsplit('/', 1)[-1]}" for line in trace.read_text().splitlines()
    ]
    return {
        phase: [number for number, line in enumerate(lines, 1) if re.match(pattern, line)][which]
        for phase, (which, pattern) in PHASES.items()
    }


@pytest.mark.slow
def test_a_study_killed_in_each_phase_of_its_writing_ends_as_an_undisturbed_one(command, undisturbed, tmp_path):
    study = (*command["matched"], "--workers=1")
    (tmp_path / "traced").mkdir()
    studies.run(*study, folder=tmp_path / "traced", trace=tmp_path / "trace")
    for phase, number in change_numbers(tmp_path / "trace").items():
        folder = tmp_path / str(number)
        folder.mkdir()
        assert studies.run(*study, folder=folder, kill_at=number).status == -signal.SIGKILL, phase
        assert studies.run(*study, folder=folder).status == 0, phase
        assert studies.difference(undisturbed["matched"], folder) is None, phase


@pytest.mark.parametrize("protocol", ["matched", "published"])
def test_a_killed_trial_goes_on_from_its_last_state_and_not_from_its_beginning(
    command, undisturbed, tmp_path, protocol
):
    """The published protocol saves its state by time only, so there every step is made to take long enough."""
    prelude = WATCH_STEPS + "import train\ntrain.SAVE_EVERY_S = -1\n"
    if protocol == "published":
        prelude += """
from training import published_trials
from training import trial as constants
constants.SAVE_EVERY_S = -1
save = published_trials._save
def saves(path, trial, corpus, snapshot, report):
    with open("steps", "a") as file:
        file.write(f"{trial.seed}:{snapshot['step'] - 1} ")
    save(path, trial, corpus, snapshot, report)
published_trials._save = saves
"""
    one = (*command[protocol], "--workers=1")
    # each write is six changes, so that a worker dies at its eighth: with the points of the curves, at about step 4
    kill_at = 45 if protocol == "matched" else 28
    killed = studies.run(*one, folder=tmp_path, prelude=prelude, kill_at=kill_at, victim="worker")
    assert "its worker was killed by SIGKILL" in killed.out
    assert studies.difference(undisturbed[protocol], tmp_path) is None
    of_trial_one = [
        int(step.split(":")[1]) for step in (tmp_path / "steps").read_text().split() if step.startswith("42:")
    ]
    assert of_trial_one == sorted(of_trial_one)
    assert len(of_trial_one) < 6 + 3, "every attempt started over"
    assert of_trial_one.count(0) == 1


# --- damaged ----------------------------------------------------------------------------------------------------------


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 4
    path.write_bytes(bytes(data))


class Hostile:
    """Creates a file when it is unpickled by a careless reader."""

    def __reduce__(self):
        return os.system, ("touch executed",)


def make_hostile(path):
    path.write_bytes(pickle.dumps(Hostile()))


DAMAGE = {
    "truncated": truncate,
    "a bit flipped": flip_a_bit,
    "hostile": make_hostile,
    "empty": lambda p: p.write_bytes(b""),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_set_aside_and_its_trial_trained_again_to_the_same_bits(
    command, undisturbed, tmp_path, damage
):
    copy(undisturbed["matched"], tmp_path)
    path = tmp_path / "checkpoints" / "charlm_relu" / "trial_2.pt"
    DAMAGE[damage](path)
    damaged = path.read_bytes()
    done = studies.run(*command["matched"], folder=tmp_path)
    assert done.status == 0, done.err
    assert "trial_2.pt" in done.out
    assert "set aside as trial_2.pt.aside-1, trial 2 of charlm_relu is retrained" in done.out
    assert "1 trials to train, 2 already done" in done.out
    aside = path.with_name("trial_2.pt.aside-1")
    assert aside.read_bytes() == damaged
    aside.unlink()
    assert studies.difference(undisturbed["matched"], tmp_path) is None
    assert not (tmp_path / "executed").exists()


def test_a_damaged_checkpoint_is_made_again_even_when_the_run_that_set_it_aside_is_killed(
    command, undisturbed, tmp_path
):
    copy(undisturbed["matched"], tmp_path)
    path = tmp_path / "checkpoints" / "charlm_relu" / "trial_1.pt"
    truncate(path)
    prelude = "import os, signal\nfrom study import run\nrun.run = lambda *_: os.kill(os.getpid(), signal.SIGKILL)"
    assert studies.run(*command["matched"], folder=tmp_path, prelude=prelude).status == -signal.SIGKILL
    assert not path.exists()
    assert studies.run(*command["matched"], folder=tmp_path).status == 0
    path.with_name("trial_1.pt.aside-1").unlink()
    assert studies.difference(undisturbed["matched"], tmp_path) is None


def test_a_damaged_or_hostile_state_of_a_running_trial_is_set_aside(command, undisturbed, tmp_path):
    partial = tmp_path / "checkpoints" / "charlm_relu" / "trial_1.partial.pt"
    partial.parent.mkdir(parents=True)
    make_hostile(partial)
    done = studies.run(*command["matched"], folder=tmp_path)
    assert "set aside as trial_1.partial.pt.aside-1; the trial starts over" in done.out
    partial.with_name("trial_1.partial.pt.aside-1").unlink()
    assert studies.difference(undisturbed["matched"], tmp_path) is None
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("name", ["charlm_relu.json", "charlm_relu/trial_2.safetensors", "study.json"])
@pytest.mark.parametrize("damage", ["truncated", "a bit flipped"])
def test_a_damaged_result_is_named_and_nothing_is_changed(command, undisturbed, tmp_path, name, damage):
    copy(undisturbed["matched"], tmp_path)
    DAMAGE[damage](tmp_path / "results" / name)
    before = files(tmp_path)
    done = studies.run(*command["matched"], "--trials=4", folder=tmp_path)
    assert done.status == 1
    assert f"{name} is damaged" in done.err
    assert len(done.err.splitlines()) == 1
    assert files(tmp_path) == before


def test_a_trial_that_comes_out_otherwise_is_compared_with_the_others_again(command, undisturbed, tmp_path):
    """Another build of PyTorch, say, has other last digits."""
    copy(undisturbed["matched"], tmp_path)
    (tmp_path / "checkpoints" / "charlm_relu" / "trial_2.pt").write_bytes(b"damaged")
    otherwise = """
from training import step
real = step.initialize
def otherwise(model, *arguments, **options):
    real(model, *arguments, **options)
    next(model.parameters()).data += 0.01
step.initialize = otherwise
"""
    done = studies.run(*command["matched"], folder=tmp_path, prelude=otherwise)
    assert done.status == 0, done.out + done.err
    before, after = (
        studies.content(folder)["results/charlm_relu.json"] for folder in (undisturbed["matched"], tmp_path)
    )
    pairs = [{(p["trial_a"], p["trial_b"]): p["relative_pd"] for p in result["pairs"]} for result in (before, after)]
    assert pairs[0].keys() == pairs[1].keys()
    assert [key for key in pairs[0] if pairs[0][key] != pairs[1][key]] == [(1, 2), (2, 3)]
    names = [
        {name for name in studies.content(folder) if "aside" not in name}
        for folder in (undisturbed["matched"], tmp_path)
    ]
    assert names[0] == names[1]


@pytest.mark.parametrize("trials", [1, 3])
def test_values_per_window_that_were_lost_are_made_again_from_the_checkpoints(command, tmp_path, trials):
    study = (*command["matched"], f"--trials={trials}")
    assert studies.run(*study, folder=tmp_path).status == 0
    before = studies.content(tmp_path)
    for path in (tmp_path / "results" / "charlm_relu").iterdir():
        path.unlink()
    done = studies.run(*study, folder=tmp_path)
    assert done.status == 0, done.err
    assert f"0 trials to train, {trials} already done" in done.out
    assert studies.difference(before, tmp_path) is None


def test_swapped_values_are_refused_by_name_and_nothing_is_changed(command, undisturbed, tmp_path):
    copy(undisturbed["matched"], tmp_path)
    one, other = (tmp_path / "results" / "charlm_relu" / f"trial_{k}.safetensors" for k in (1, 2))
    data = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(data)
    before = files(tmp_path)
    done = studies.run(*command["matched"], "--trials=4", folder=tmp_path)
    assert done.status == 1 and len(done.err.splitlines()) == 1
    assert "trial_1.safetensors is not the file listed in results/charlm_relu.json" in done.err
    assert files(tmp_path) == before


def test_a_foreign_file_among_the_values_is_named_and_left_alone(command, undisturbed, tmp_path):
    copy(undisturbed["matched"], tmp_path)
    folder = tmp_path / "results" / "charlm_relu"
    (folder / "trial_9.safetensors").write_bytes((folder / "trial_1.safetensors").read_bytes())
    before = files(tmp_path)
    done = studies.run(*command["matched"], folder=tmp_path)
    assert (
        done.status == 0
        and "trial_9.safetensors is a copy, or has been replaced by another file; it is ignored" in done.out
    )
    assert files(tmp_path).keys() == before.keys()


def test_a_deleted_result_is_made_again_from_the_files_of_its_trials_and_pairs(command, undisturbed, tmp_path):
    copy(undisturbed["matched"], tmp_path)
    (tmp_path / "results" / "charlm_relu.json").unlink()
    done = studies.run(*command["matched"], folder=tmp_path)
    assert done.status == 0 and "0 trials to train, 3 already done" in done.out
    assert studies.difference(undisturbed["matched"], tmp_path) is None


def test_deleted_curves_cost_nothing_until_a_pair_needs_them(command, undisturbed, tmp_path):
    """Then their trials are trained again, to the same bits."""
    assert studies.run(*command["matched"], "--trials=2", folder=tmp_path).status == 0
    for path in (tmp_path / "checkpoints" / "charlm_relu").glob("*.curve/*"):
        path.unlink()
    assert "0 trials to train, 2 already done" in studies.run(*command["matched"], "--trials=2", folder=tmp_path).out
    done = studies.run(*command["matched"], folder=tmp_path)
    assert done.status == 0 and "3 trials to train, 0 already done" in done.out, done.out + done.err
    assert studies.difference(undisturbed["matched"], tmp_path) is None


def as_schema_version_1(folder):
    """Gives a study the files that this program wrote until schema_version 1."""
    path = folder / "results" / "charlm_relu.json"
    result = storage.read_result(path)
    arrays = storage.read_values(result)
    np.savez(path.with_suffix(".npz"), **arrays, checksum=np.array(studies._digest(arrays)))
    shutil.rmtree(path.with_suffix(""))
    old = {name: value for name, value in result.items() if name not in ("kind", "values", "path")}
    json_files.write_json(path, old | {"schema_version": 1})
    for trial in (1, 2):
        checkpoint = folder / "checkpoints" / "charlm_relu" / f"trial_{trial}.pt"
        points = sorted(checkpoint.with_suffix(".curve").iterdir(), key=lambda point: int(point.stem))
        curve = [(int(p.stem), torch.tensor(array_files.read_arrays(p).arrays["log_probabilities"])) for p in points]
        content = {
            name: value for name, value in checkpoint_files.read_checkpoint(checkpoint).items() if name != "kind"
        }
        checkpoint_files.write_checkpoint(checkpoint, {**content, "curve": curve})
        shutil.rmtree(checkpoint.with_suffix(".curve"))


def test_a_study_of_schema_version_1_is_extended_without_training_its_trials_again(command, undisturbed, tmp_path):
    assert studies.run(*command["matched"], "--trials=2", folder=tmp_path).status == 0
    as_schema_version_1(tmp_path)
    old = (tmp_path / "results" / "charlm_relu.npz").read_bytes()
    done = studies.run(*command["matched"], folder=tmp_path)
    assert done.status == 0 and "1 trials to train, 2 already done" in done.out, done.out + done.err
    assert (tmp_path / "results" / "charlm_relu.npz").read_bytes() == old
    found, expected = (
        {name: value for name, value in studies.content(folder).items() if not name.endswith(".pt")}
        for folder in (tmp_path, undisturbed["matched"])
    )
    assert json_files.first_difference(expected, found) is None


def test_damaged_predictions_are_made_again_without_a_word(command, undisturbed, tmp_path):
    """They are a cache: here that of a study which was killed before it compared its pairs."""
    broken = "from study import jobs\njobs.FUNCTIONS['compare'] = None"
    assert studies.run(*command["matched"], folder=tmp_path, prelude=broken).status == 1
    cached = sorted((tmp_path / "checkpoints" / "charlm_relu").glob("*.predictions.safetensors"))
    assert len(cached) == 3
    truncate(cached[0])
    flip_a_bit(cached[1])
    cached[2].write_bytes(cached[0].read_bytes())
    done = studies.run(*command["matched"], folder=tmp_path)
    assert done.status == 0 and "damaged" not in done.out + done.err
    assert studies.difference(undisturbed["matched"], tmp_path) is None


def test_a_folder_of_checkpoints_belongs_to_one_study(command, undisturbed, tmp_path):
    copy(undisturbed["matched"], tmp_path)
    before = files(tmp_path)
    other = (*command["matched"], "--seed-base=7", "--results-dir=other", "--checkpoints-dir=checkpoints")
    for option in ((), ("--dry-run",)):
        done = studies.run(*other, *option, folder=tmp_path)
        assert done.status == 2
        assert "checkpoints holds a study with other settings (seed_base: 42 there, 7 asked for)" in done.err
        assert "choose another --checkpoints-dir" in done.err
    assert files(tmp_path) == before


def test_a_checkpoint_that_belongs_to_another_model_is_not_overwritten(command, undisturbed, tmp_path):
    """Two studies that share a folder of checkpoints, which does not say whose it is."""
    other = (*command["matched"], "--seed-base=7", "--trials=2", "--results-dir=other", "--checkpoints-dir=checkpoints")
    copy(undisturbed["matched"], tmp_path)
    (tmp_path / "checkpoints" / "study.json").unlink()
    before = files(tmp_path)
    assert studies.run(*other, folder=tmp_path).status == 0
    kept = {name.removesuffix(".aside-1"): data for name, data in files(tmp_path).items()}
    for number in (1, 2):
        name = f"checkpoints/charlm_relu/trial_{number}.pt"
        assert (tmp_path / f"{name}.aside-1").read_bytes() == before[name]
    assert kept.keys() - {"checkpoints/study.json"} == before.keys()


# --- the disk ---------------------------------------------------------------------------------------------------------

FULL_DISK = """
import errno, os
real = os.fsync
def full(descriptor):
    if os.path.isfile(f"/proc/self/fd/{descriptor}") and "trial_3.pt" in os.readlink(f"/proc/self/fd/{descriptor}"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    real(descriptor)
os.fsync = full
"""
# A limit of the system's own on the size of a file; the predictions of a trial are larger.
SMALL_FILES = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (30_000, resource.RLIM_INFINITY))"


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="no /proc here, by which the test recognizes a file")
@pytest.mark.parametrize(
    ("prelude", "says"),
    [
        (FULL_DISK, "No space left on device; free some space, or choose another folder"),
        (SMALL_FILES, "File too large; raise the file size limit (ulimit -f)"),
    ],
    ids=["full", "limit"],
)
def test_a_full_disk_is_named_and_costs_nothing_that_was_written(command, undisturbed, tmp_path, prelude, says):
    assert studies.run(*command["matched"], "--trials=2", folder=tmp_path).status == 0
    before = files(tmp_path)
    done = studies.run(*command["matched"], folder=tmp_path, prelude=prelude)
    assert done.status == 1
    assert "error: cannot write " in done.err and says in done.err
    assert "Traceback" not in done.out + done.err
    after = files(tmp_path)
    assert {name: data for name, data in after.items() if name in before} == before
    # A worker that is stopped in the middle of a write can leave an unfinished file; the next run removes it.
    assert studies.run(*command["matched"], folder=tmp_path).status == 0
    assert not [name for name in files(tmp_path) if name.endswith(files_module.UNFINISHED)]
    assert studies.difference(undisturbed["matched"], tmp_path) is None


@pytest.mark.skipif(not os.path.exists("/proc/self"), reason="no /proc here, in which nobody may write")
def test_a_folder_in_which_nobody_can_write_is_named(tiny_corpus_file, tmp_path):
    done = run(tmp_path, tiny_corpus_file, "--results-dir=/proc/charlm")
    assert done.status == 1
    assert done.err.startswith("error: cannot write in /proc") and len(done.err.splitlines()) == 1
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_to_write_is_named(tiny_corpus_file, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o555)
    done = run(tmp_path, tiny_corpus_file, "--results-dir=locked/results")
    assert done.status == 1
    assert "cannot write in locked" in done.err


def test_a_file_in_the_place_of_a_folder_is_the_users_mistake(tiny_corpus_file, tmp_path):
    (tmp_path / "results").write_text("mine")
    done = run(tmp_path, tiny_corpus_file)
    assert done.status == 2
    assert done.err == "error: results is a file, not a folder; choose another\n"
    assert (tmp_path / "results").read_text() == "mine"
    assert not (tmp_path / "checkpoints").exists()
