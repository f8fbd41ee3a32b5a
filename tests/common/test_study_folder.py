"""Claims about a study's folder: locks, setting aside, and files that do not belong where they lie."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from common import files, json_files, storage
from common.errors import RunError, UserError

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "results" / "reference" / "matched"


# --- a study's folder -------------------------------------------------------------------------------------------------


def test_a_folder_without_a_study_is_the_users_mistake(tmp_path):
    with pytest.raises(UserError, match=r"contains no study \(study\.json is missing\)"):
        storage.read_study(tmp_path)


def test_setting_aside_never_overwrites(tmp_path):
    for content in ("one", "two", "three"):
        (tmp_path / "x.pt").write_text(content)
        files.set_aside(tmp_path / "x.pt")
    assert sorted(path.read_text() for path in tmp_path.iterdir()) == ["one", "three", "two"]
    assert not (tmp_path / "x.pt").exists()


def test_a_locked_folder_says_who_holds_it(tmp_path):
    """Held by another process, refused here; free as soon as that process is gone, in whatever way."""
    program = (
        "import sys; from common import files\n"
        "with files.locked(sys.argv[1]):\n    print('locked', flush=True)\n    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "results")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as holder:
        assert holder.stdout.readline() == "locked\n"
        refused = pytest.raises(RunError, match=rf"is in use by process {holder.pid} on \S+; wait for it")
        with refused, files.locked(tmp_path / "results"):
            pytest.fail("two processes hold the folder")
        holder.kill()
    with files.locked(tmp_path / "results"):
        assert str(os.getpid()) in (tmp_path / "results" / ".lock").read_text()
    with files.locked(tmp_path / "results"):
        pass


def test_a_lock_that_cannot_be_written_is_named(tmp_path):
    """Even an empty folder on a full disk, here one whose files may hold nothing."""
    program = (
        "import resource, sys; from common import files\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
        "try:\n    with files.locked(sys.argv[1]):\n        print('locked')\n"
        "except files.RunError as error:\n    print(error)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert found.stdout == f"cannot write in {tmp_path}: File too large; raise the file size limit (ulimit -f)\n"
    assert not found.stderr


def test_a_study_is_read_back_whole(tmp_path):
    json_files.write_json(tmp_path / storage.STUDY_FILE, {"identity": {"protocol": "matched"}})
    for name in ("charlm_relu", "charlm_gelu"):
        content = json.loads((SHIPPED / f"{name}.json").read_text())
        json_files.write_json(tmp_path / f"{name}.json", content)
    json_files.write_json(tmp_path / storage.SUMMARY_FILE, {"experiments": {}})
    study, results = storage.read_study(tmp_path)
    assert study["identity"] == {"protocol": "matched"}
    assert [Path(result["path"]).stem for result in results] == ["charlm_gelu", "charlm_relu"]
    assert json.loads((tmp_path / "charlm_relu.json").read_text())["activation"] == "relu"


# --- what belongs where -----------------------------------------------------------------------------------------------


@pytest.fixture
def shipped(tmp_path):
    """A copy of a study of schema_version 1."""
    return Path(shutil.copytree(SHIPPED, tmp_path / "study"))


def test_old_studies_are_read_with_their_values(shipped):
    study, results = storage.read_study(shipped)
    assert study["schema_version"] == 1 and len(results) == 5
    for result in results:
        values = storage.read_values(result)
        assert values["trial_1_loss"].mean() == pytest.approx(result["trials"][0]["val_loss"], rel=1e-12)
        assert {storage.measure_of(name) for name in storage.read_values(result, ("loss",))} == {"loss"}


def swap(one, other):
    data = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(data)


def test_old_arrays_of_another_result_are_refused_by_name(shipped):
    swap(shipped / "charlm_relu.npz", shipped / "charlm_gelu.npz")
    for name in ("charlm_relu", "charlm_gelu"):
        result = storage.read_result(shipped / f"{name}.json")
        with pytest.raises(RunError, match=rf"{name}\.npz belongs to another result than .*{name}\.json"):
            storage.read_values(result)


def test_swapped_results_and_copies_are_named_and_not_counted(shipped):
    shutil.copy(shipped / "charlm_swish.json", shipped / "charlm_swish (copy).json")
    shutil.copy(shipped / storage.STUDY_FILE, shipped / "study_old.json")
    (shipped / "notes.json").write_text("[]")
    swap(shipped / "charlm_relu.json", shipped / "charlm_gelu.json")
    said = []
    _, results = storage.read_study(shipped, said.append)
    assert [storage.name_of(result) for result in results] == ["charlm_smelu_05", "charlm_smelu_1", "charlm_swish"]
    named = ("charlm_gelu.json", "charlm_relu.json", "charlm_swish (copy).json", "notes.json", "study_old.json")
    assert len(said) == 5 and all(f"{name} " in text and "is ignored" in text for name, text in zip(named, said))


def test_a_summary_in_the_place_of_a_study_is_refused_by_name(shipped):
    swap(shipped / storage.STUDY_FILE, shipped / storage.SUMMARY_FILE)
    with pytest.raises(RunError, match=r"study\.json is a summary, not a study"):
        storage.read_study(shipped)
    with pytest.raises(RunError, match=r"all_experiments_summary\.json is a study, not a summary"):
        json_files.read_json(shipped / storage.SUMMARY_FILE, json_files.SUMMARY)


def spoil(change):
    def changed(path):
        content = json.loads(path.read_text())
        change(content)
        json_files.write_json(path, content)

    return changed


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda result: result.pop("pairs"), "pairs is missing"),
        (lambda result: result["trials"][3].update(val_loss="low"), "trials[3].val_loss: expected number"),
        (lambda result: result["trials"][3].update(trial=10**9), "its trials are numbered"),
        (lambda result: result["trials"][3].update(trial=1), "its trials are numbered"),
    ],
)
def test_a_result_without_its_fields_is_refused_by_name(shipped, change, says):
    path = shipped / "charlm_relu.json"
    spoil(change)(path)
    with pytest.raises(RunError) as caught:
        storage.read_study(shipped)
    assert f"{path} is not a valid result: {says}" in str(caught.value)


@pytest.mark.parametrize("place", ["../../secret.safetensors", "/etc/passwd", "charlm_gelu/trial_1.safetensors"])
def test_a_result_names_files_in_its_own_folder_only(shipped, place):
    path = shipped / "charlm_relu.json"
    spoil(lambda result: result.update(values=[{"file": place, "sha256": "0" * 64}]))(path)
    with pytest.raises(RunError, match="lists a file outside its own folder"):
        storage.read_values(storage.read_result(path))
