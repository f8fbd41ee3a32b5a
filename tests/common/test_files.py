"""Claims about files: complete and valid, or absent; whatever happens to one is noticed, named, and left as it is."""

import errno
import hashlib
import json
import os
import pickle
import stat
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common import array_files, checkpoint_files, files, json_files
from common.errors import RunError

# torch.load speaks of the pickle protocol that a flipped bit has made of another.
pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "results" / "reference" / "matched"

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
CONTENT = {
    "schema_version": 1,
    "identity": {"config": {"n_embd": 128, "dropout": 0.2}, "vary": []},
    "trials": [{"trial": 1, "val_loss": 2.5, "continuations": ["to be, \n or \u2028 not ü"], "checkpoint": None}],
    "provenance": {"git_commit": "abc"},
}


@pytest.fixture(scope="module", autouse=True)
def _a_disk_that_does_not_wait():
    """Some thousand files are written here; that each reaches the disk has a test of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


def without_checksum(content):
    return {**content, "provenance": {k: v for k, v in content["provenance"].items() if k != "checksum"}}


def checkpoint_content():
    torch.manual_seed(1)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": 3,
        "history": [{"step": 0, "train_loss": 4.25, "val_loss": 4.5}],
        "curve": [(0, torch.arange(4.0))],
        "seeds": {"init": 42, "bit": None},
    }


def write_each(folder):
    """One file of each kind: (path, how it is read)."""
    json_files.write_json(folder / "result.json", CONTENT)
    arrays = {"trial_1_loss": np.arange(700.0), "pair_1_2_relative_pd": np.arange(5, dtype=np.float32)}
    array_files.write_arrays(folder / "values.safetensors", {"kind": "trial"}, arrays)
    checkpoint_files.write_checkpoint(folder / "trial_1.pt", checkpoint_content())
    write_old_arrays(folder / "result.npz", arrays)
    return [
        (folder / "result.json", json_files.read_json),
        (folder / "values.safetensors", array_files.read_arrays),
        (folder / "trial_1.pt", checkpoint_files.read_checkpoint),
        (folder / "result.npz", array_files.read_npz),
    ]


READERS = {
    "json": json_files.read_json,
    "arrays": array_files.read_arrays,
    "checkpoint": checkpoint_files.read_checkpoint,
    "old arrays": array_files.read_npz,
}


def write_old_arrays(path, arrays):
    """As this program did until schema_version 1."""
    np.savez(path, **arrays, checksum=np.array(digest(arrays)))


KINDS = pytest.mark.parametrize("kind", [0, 1, 2, 3], ids=["json", "arrays", "checkpoint", "old arrays"])


def digest(content):
    """A digest of any content that the readers give."""
    found = hashlib.sha256()
    checkpoint_files.add_to_digest(found, content)
    return found.hexdigest()


# --- a file is complete and valid, or absent --------------------------------------------------------------------------


@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_json_is_read_as_it_was_written(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("json") / "some.json"
    content = {**content, "provenance": {"git_commit": None}}
    content.pop("schema_version", None)
    json_files.write_json(path, content)
    assert without_checksum(json_files.read_json(path)) == content
    first = path.read_bytes()
    json_files.write_json(path, json_files.read_json(path))
    assert path.read_bytes() == first, "writing what was read changes the file"


def test_arrays_and_checkpoints_are_read_as_they_were_written(tmp_path):
    arrays = {"b": np.arange(3.0), "a": np.zeros((2, 0, 3), np.float32), "c": np.array(7, np.int64)}
    about = {"kind": "trial", "identity": {"config": {"dropout": 0.2}}}
    sha256 = array_files.write_arrays(tmp_path / "x.safetensors", about, arrays)
    for mapped in (False, True):
        found = array_files.read_arrays(tmp_path / "x.safetensors", mapped)
        assert found.about == about and found.sha256 == sha256 and list(found.arrays) == list(arrays)
        for name, array in arrays.items():
            assert found.arrays[name].dtype == array.dtype and np.array_equal(found.arrays[name], array)
    content = checkpoint_content()
    checkpoint_files.write_checkpoint(tmp_path / "x.pt", content)
    assert digest(checkpoint_files.read_checkpoint(tmp_path / "x.pt")) == digest(content)


def test_equal_content_gives_equal_bytes(tmp_path):
    """So that a run which changes nothing can be seen to change nothing."""
    for folder in ("one", "two"):
        write_each(tmp_path / folder)
    for path in sorted((tmp_path / "one").iterdir()):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


@pytest.mark.parametrize("call", ["fsync", "replace", "fdopen"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_failure_in_the_middle_leaves_the_old_file(tmp_path, monkeypatch, call, code):
    written = write_each(tmp_path)
    before = {path: path.read_bytes() for path, _ in written}

    def fail(*arguments, **options):
        raise OSError(code, os.strerror(code))

    writers = [
        lambda: json_files.write_json(tmp_path / "result.json", {"new": True}),
        lambda: array_files.write_arrays(tmp_path / "values.safetensors", {}, {"new": np.ones(3)}),
        lambda: checkpoint_files.write_checkpoint(tmp_path / "trial_1.pt", {"new": torch.ones(3)}),
    ]
    for write, (path, _) in zip(writers, written, strict=False):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, fail)
            with pytest.raises(RunError) as caught:
                write()
        assert str(path) in str(caught.value) and os.strerror(code) in str(caught.value)
        assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before, "something was left behind, or lost"


def test_an_interruption_in_the_middle_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    json_files.write_json(path, CONTENT)

    def interrupt(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        json_files.write_json(path, {"new": True})
    monkeypatch.undo()
    assert without_checksum(json_files.read_json(path)) == CONTENT
    assert list(tmp_path.iterdir()) == [path]


def test_data_reach_the_disk_before_their_name_does(tmp_path, monkeypatch):
    """fsync of the file, then the rename, then fsync of the folder: otherwise a power cut can leave an empty file."""
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, real=real, name=name: (calls.append((name, a)), real(*a))[1])
    sizes = []
    real_replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (sizes.append(os.path.getsize(a)), real_replace(a, b))[1])
    files.write_atomically(tmp_path / "x", b"twelve bytes")
    assert [name for name, _ in calls] == ["fsync", "replace", "fsync"]
    assert sizes == [12]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_json_does_not_have_is_refused(tmp_path, value):
    path = tmp_path / "result.json"
    json_files.write_json(path, CONTENT)
    with pytest.raises(ValueError):
        json_files.write_json(path, {"trials": [{"val_loss": value}]})
    assert without_checksum(json_files.read_json(path)) == CONTENT


@pytest.fixture
def umask():
    """os.umask, which the test leaves as it was."""
    before = os.umask(0)
    yield os.umask
    os.umask(before)


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_umask_decides_who_may_read_a_file(tmp_path, umask, mask, mode):
    umask(mask)
    for path, _ in write_each(tmp_path):
        assert path.stat().st_mode & 0o777 == mode


def test_a_file_system_without_modes_and_without_flushing_of_folders_is_no_obstacle(tmp_path, monkeypatch):
    """As vfat and CIFS are: what took long to train is saved there as well."""
    real = os.fsync

    def refuse(*arguments, **options):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    def flush(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        real(descriptor)

    monkeypatch.setattr(os, "chmod", refuse)
    monkeypatch.setattr(os, "fchmod", refuse)
    monkeypatch.setattr(os, "fsync", flush)
    for path, written in write_each(tmp_path):
        assert path.exists(), written


@pytest.mark.parametrize("name", ["result.json", "values.safetensors", "trial_1.pt"])
def test_a_folder_that_cannot_be_is_named(tmp_path, name):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match=f"cannot write .*file/{name}"):
        files.write_atomically(tmp_path / "file" / name, b"")


# --- damage -----------------------------------------------------------------------------------------------------------


def places(size, few):
    """Every byte of the first and last 300, where the structure is, and some between."""
    return sorted({*range(min(size, 300)), *range(max(size - 300, 0), size), *range(0, size, max(size // few, 1))})


def notices(path, read, data, whole, what):
    """Whether the damaged file is refused by name; else it reads as it was written: not every bit means something."""
    path.write_bytes(data)
    try:
        found, refusal = read(path), None
    except RunError as error:
        found, refusal = None, str(error)
    assert path.read_bytes() == data, f"{what}: the damaged file was changed"
    if refusal is None:
        assert digest(found) == whole, f"{what}: damage went unnoticed"
        return False
    assert str(path) in refusal and "\n" not in refusal, what
    return True


@KINDS
def test_a_flipped_bit_is_noticed_wherever_it_is(tmp_path, kind):
    path, read = write_each(tmp_path)[kind]
    data, whole = path.read_bytes(), digest(read(path))
    noticed, tried = 0, 0
    for place in places(len(data), 300):
        for bit in {place % 8, 0}:
            damaged = bytearray(data)
            damaged[place] ^= 1 << bit
            noticed += notices(path, read, bytes(damaged), whole, f"bit {bit} of byte {place}")
            tried += 1
    assert noticed > tried / 3  # zip files have much padding


@KINDS
def test_a_truncated_file_is_noticed_wherever_it_ends(tmp_path, kind):
    path, read = write_each(tmp_path)[kind]
    data, whole = path.read_bytes(), digest(read(path))
    for end in places(len(data) - 1, 100):
        assert notices(path, read, data[:end], whole, f"cut after {end} bytes")
    for extra in (b"\0", b"more"):
        notices(path, read, data + extra, whole, "something appended")


@pytest.fixture(scope="module")
def one_of_each(tmp_path_factory):
    """(path, how it is read, its bytes, the digest of its content) of a file of each kind."""
    written = write_each(tmp_path_factory.mktemp("damage"))
    return [(path, read, path.read_bytes(), digest(read(path))) for path, read in written]


@KINDS
@settings(max_examples=100)
@given(data=st.data())
def test_a_destroyed_region_is_noticed(one_of_each, kind, data):
    path, read, original, whole = one_of_each[kind]
    start = data.draw(st.integers(0, len(original) - 1))
    end = data.draw(st.integers(start + 1, min(start + 5000, len(original))))
    filling = data.draw(st.sampled_from([b"\0", b"\xff", b" ", original[:1]]))
    damaged = original[:start] + filling * (end - start) + original[end:]
    notices(path, read, damaged, whole, f"{filling} from {start} to {end}")


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (2, 0), (2, 3)])
def test_a_tensor_of_any_shape_is_kept_and_told_from_others(shape, tmp_path):
    """A damaged file can hold a shape with a zero in it, and the digest is taken of what was read."""
    checkpoint_files.write_checkpoint(tmp_path / "x.pt", {"model": torch.zeros(shape)})
    assert checkpoint_files.read_checkpoint(tmp_path / "x.pt")["model"].shape == shape
    assert digest({"x": torch.zeros(shape)}) != digest({"x": torch.zeros(4)})


def test_an_old_array_that_is_cut_short_is_noticed(tmp_path):
    """The zip format's CRC speaks only when a member is read to its end, and a shorter array ends before."""
    path = tmp_path / "x.npz"
    write_old_arrays(path, {"loss": np.arange(5000.0)})
    data = path.read_bytes()
    assert data.count(b"(5000,)") == 1
    path.write_bytes(data.replace(b"(5000,)", b"(4000,)"))
    with pytest.raises(RunError, match="is damaged"):
        array_files.read_npz(path)


def test_an_old_array_that_is_lost_is_noticed(tmp_path):
    """One bit of a zip's directory can make it end before its last member, and the zip module does not mind."""
    path = tmp_path / "x.npz"
    arrays = {"loss": np.arange(3.0), "pair": np.arange(4.0)}
    write_old_arrays(path, arrays)
    with np.load(path) as archive:
        fewer = {name: archive[name] for name in archive.files if name != "pair"}
    for content in (fewer, arrays):  # without an array; without the checksum
        np.savez(path, **content)
        with pytest.raises(RunError, match="is damaged"):
            array_files.read_npz(path)


def test_a_file_of_arrays_is_read_by_anyone_who_knows_the_safetensors_format(tmp_path):
    """As docs/results-format.md describes it: the length of the header, the header, the numbers."""
    path, loss = tmp_path / "x.safetensors", np.array([1.5, 2.5])
    array_files.write_arrays(path, {"kind": "trial"}, {"count": np.array([7]), "loss": loss})
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    assert length % 8 == 0 and header["loss"] == {"dtype": "F64", "shape": [2], "data_offsets": [8, 24]}
    assert np.array_equal(np.frombuffer(data[8 + length :][8:24]), loss)
    assert json.loads(header["__metadata__"]["about"]) == {"kind": "trial"}
    without = data[8:].replace(header["__metadata__"]["sha256"].encode(), b"0" * 64)
    assert header["__metadata__"]["sha256"] == hashlib.sha256(without).hexdigest()


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "1", '{"provenance": null}', '{"provenance": {}}', '{"provenance": {"checksum": 1}}'],
)
def test_json_that_is_none_of_ours_is_refused(tmp_path, text):
    path = tmp_path / "result.json"
    path.write_text(text)
    with pytest.raises(RunError, match=f"^{path} is damaged or was edited .* left unchanged"):
        json_files.read_json(path)


def test_an_edited_number_is_noticed(tmp_path):
    path = tmp_path / "result.json"
    json_files.write_json(path, CONTENT)
    path.write_text(path.read_text().replace("2.5", "2.4"))
    with pytest.raises(RunError, match="is damaged or was edited"):
        json_files.read_json(path)


def test_a_file_of_a_later_program_is_refused(tmp_path):
    path = tmp_path / "result.json"
    json_files.write_json(path, {**CONTENT, "schema_version": json_files.SCHEMA_VERSION + 1})
    with pytest.raises(RunError, match=rf"{path} has schema_version {json_files.SCHEMA_VERSION + 1}"):
        json_files.read_json(path)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    for read in READERS.values():
        with pytest.raises(RunError, match=f"cannot read {tmp_path}: Is a directory"):
            read(tmp_path)
    with pytest.raises(RunError, match=f"cannot read {tmp_path}/absent: No such file"):
        json_files.read_json(tmp_path / "absent")


def test_a_missing_checkpoint_or_array_is_not_a_damaged_one(tmp_path):
    for read in (checkpoint_files.read_checkpoint, array_files.read_arrays, array_files.read_npz):
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "trial_1.pt")


def test_a_checkpoint_that_cannot_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    path = tmp_path / "trial_1.pt"
    checkpoint_files.write_checkpoint(path, checkpoint_content())

    def fail(*arguments, **options):
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(RunError, match=f"cannot read the checkpoint {path}: Input/output error"):
        checkpoint_files.read_checkpoint(path)


# --- files of an enemy ------------------------------------------------------------------------------------------------


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("inside", ["alone", "in torch.save", "in a valid checkpoint"])
def test_a_hostile_pickle_is_refused_and_not_executed(tmp_path, inside):
    path, proof = tmp_path / "trial_1.pt", tmp_path / "executed"
    if inside == "alone":
        path.write_bytes(pickle.dumps(Hostile(proof)))
    elif inside == "in torch.save":
        torch.save(Hostile(proof), path)
    else:
        torch.save({**checkpoint_content(), "extra": Hostile(proof), "checksum": "0" * 64}, path)
    before = path.read_bytes()
    with pytest.raises(RunError, match=str(path)):
        checkpoint_files.read_checkpoint(path)
    assert not proof.exists(), "the file's code ran"
    assert path.read_bytes() == before
    if inside != "in a valid checkpoint":
        return
    torch.load(path, weights_only=False)  # what the test is worth: a trusting reader is caught
    assert proof.exists()


def test_a_hostile_array_is_refused_and_not_executed(tmp_path):
    path, proof = tmp_path / "x.npz", tmp_path / "executed"
    np.savez(path, loss=np.array([Hostile(proof)], dtype=object))
    with pytest.raises(RunError, match=str(path)):
        array_files.read_npz(path)
    assert not proof.exists()


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
@pytest.mark.parametrize("kind", ["a pipe", "a link to /dev/zero"])
def test_what_is_no_regular_file_is_refused_at_once(tmp_path, read, kind):
    path = tmp_path / "x"
    os.mkfifo(path) if kind == "a pipe" else path.symlink_to("/dev/zero")
    with pytest.raises(RunError, match=f"^cannot read {path}: it is not a regular file"):
        read(path)


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_a_file_of_a_terabyte_is_refused_at_once(tmp_path, read):
    path = tmp_path / "x"
    path.touch()
    os.truncate(path, 2**40)
    with pytest.raises(RunError, match=str(path)):
        read(path)


@pytest.mark.parametrize("depth", [100, 100_000])
def test_json_that_is_nested_deeply_is_refused(tmp_path, depth):
    path = tmp_path / "result.json"
    path.write_text('{"provenance": {"checksum": "0"}, "trials": ' + "[" * depth + "]" * depth + "}")
    with pytest.raises(RunError, match=f"^{path} is damaged or was edited"):
        json_files.read_json(path)


def of_itself():
    found = [0]
    found.append(found)
    return found


def ten_billion():
    found = [0] * 10
    for _ in range(9):
        found = [found] * 10
    return found


WITHOUT_END = {
    "contains itself": of_itself,
    "ten billion references": ten_billion,
    "four terabytes in one number": lambda: torch.zeros(1).expand(2**40),
    "many large views of one number": lambda: [torch.zeros(1).expand(1000)] * 1000,
    "a tensor without numbers": lambda: torch.empty(2**40, device="meta"),
}


@pytest.mark.parametrize("make", WITHOUT_END.values(), ids=WITHOUT_END)
def test_a_checkpoint_without_end_is_refused_at_once(tmp_path, make):
    path = tmp_path / "trial_1.pt"
    torch.save({"model": {"x": make()}, "checksum": "0" * 64}, path)
    assert path.stat().st_size < 100_000
    with pytest.raises(RunError, match=f"{path} is damaged or is not plain data"):
        checkpoint_files.read_checkpoint(path)


@pytest.mark.parametrize("read", [array_files.read_npz, checkpoint_files.read_checkpoint])
def test_a_small_archive_of_large_content_is_refused(tmp_path, read):
    path = tmp_path / "x"
    np.savez_compressed(path.with_suffix(".npz"), loss=np.zeros(10**7))
    path.with_suffix(".npz").rename(path)
    assert path.stat().st_size < 10**5
    with pytest.raises(RunError, match=f"{path} is damaged"):
        read(path)


def test_a_checkpoint_of_another_kind_is_refused_by_name(tmp_path):
    path = tmp_path / "trial_1.pt"
    checkpoint_files.save_state(path, {"seed": 1}, {}, {"step": 3}, None)
    assert checkpoint_files.read_checkpoint(path, checkpoint_files.RUNNING_TRIAL)["step"] == 3
    with pytest.raises(RunError, match=f"{path} is the state of an unfinished trial, not a trained model"):
        checkpoint_files.read_checkpoint(path, checkpoint_files.TRAINED_MODEL)
    checkpoint_files.write_checkpoint(path, checkpoint_content())
    with pytest.raises(RunError, match=f"{path} is a trained model, not the state of an unfinished trial"):
        checkpoint_files.read_checkpoint(path, checkpoint_files.RUNNING_TRIAL)


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_lock_that_is_another_file_is_refused_and_that_file_kept(tmp_path, link):
    mine = tmp_path / "mine"
    mine.write_text("precious")
    link(mine, tmp_path / ".lock")
    with pytest.raises(RunError, match=r"\.lock is .*; remove it"), files.locked(tmp_path):
        pytest.fail("locked")
    assert mine.read_text() == "precious"


def test_a_link_in_the_place_of_a_file_is_replaced_and_not_followed(tmp_path):
    mine, path = tmp_path / "mine", tmp_path / "result.json"
    mine.write_text("precious")
    path.symlink_to(mine)
    json_files.write_json(path, CONTENT)
    assert mine.read_text() == "precious"
    assert without_checksum(json_files.read_json(path)) == CONTENT and not path.is_symlink()


def test_a_folder_of_temporary_files_is_private(tmp_path, monkeypatch):
    """Whoever made it before could have put a state there, or a link."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ours = files.private_folder("trials")
    assert files.private_folder("trials") == ours and ours.stat().st_mode & 0o777 == 0o700
    ours.rename(tmp_path / "elsewhere")
    ours.symlink_to(tmp_path / "elsewhere")
    assert files.private_folder("trials") not in (ours, tmp_path / "elsewhere")
