"""Claims about files: complete and valid, or absent; whatever happens to one is noticed, named, and left as it is."""

import errno
import hashlib
import json
import os
import pickle
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common import array_files, checkpoint_files, files, json_files, storage
from common.errors import RunError, UserError

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


# --- the digest of weights --------------------------------------------------------------------------------------------


def test_the_digest_of_weights_is_pinned():
    """A stored value, because results of different versions of this program are compared by it."""
    weights = {
        "b": torch.tensor([1.5, -2.0]),
        "a": torch.tensor([[1, 2]]),
        "c": torch.tensor(1.0, dtype=torch.bfloat16),
    }
    assert (
        checkpoint_files.weights_sha256(weights) == "da5a2250eade5aafb7f660e6d9b032d861a93384c03dc2deda75fce2551f922d"
    )


def test_the_digest_of_weights_sees_names_dtypes_shapes_and_bytes_but_not_order():
    base = {"a": torch.zeros(2, 3), "b": torch.ones(3)}
    assert checkpoint_files.weights_sha256(dict(reversed(base.items()))) == checkpoint_files.weights_sha256(base)
    others = [
        {"a": torch.zeros(2, 3), "c": torch.ones(3)},
        {"a": torch.zeros(3, 2), "b": torch.ones(3)},
        {"a": torch.zeros(6), "b": torch.ones(3)},
        {"a": torch.zeros(2, 3, dtype=torch.int32), "b": torch.ones(3)},
        {"a": -torch.zeros(2, 3), "b": torch.ones(3)},  # minus zero is another weight
        {"a": torch.zeros(2, 3), "b": torch.ones(3) + 2**-23},
        {"a": torch.zeros(2, 3)},
        {"b": torch.zeros(2, 3), "a": torch.ones(3)},
    ]
    assert len({checkpoint_files.weights_sha256(weights) for weights in [base, *others]}) == 9
    transposed = {"a": torch.zeros(3, 2).T, "b": torch.ones(6)[::2]}
    assert checkpoint_files.weights_sha256(transposed) == checkpoint_files.weights_sha256(base), (
        "how it lies in memory does not matter"
    )


@given(st.lists(st.lists(st.text(max_size=3), max_size=3), max_size=3))
def test_no_two_contents_share_a_digest_by_their_joints(lists):
    """["ab", "c"] and ["a", "bc"] are different."""
    flat = [item for inner in lists for item in inner]
    assert (digest({"x": lists}) == digest({"x": [flat]})) == (lists == [flat])


# --- what is the same -------------------------------------------------------------------------------------------------


def test_stable_leaves_out_times_and_environments_only():
    content = {
        "trials": [{"val_loss": 1.0, "training_time_s": 3.0, "evaluation_time_s": 1.0, "environment": {"cpu": "x"}}],
        "provenance": {"git_commit": "x"},
        "summary": {"val_loss": {"mean": 1.0}},
    }
    expected = {"trials": [{"val_loss": 1.0}], "summary": {"val_loss": {"mean": 1.0}}}
    assert json_files.stable(content) == expected


@given(json_values, json_values)
def test_the_first_difference_is_none_exactly_where_values_are_equal(one, other):
    assert json_files.first_difference(one, one) is None
    found = json_files.first_difference(one, other)
    assert (found is None) == (one == other)


@pytest.mark.parametrize(
    ("expected", "found", "says"),
    [
        ({"config": {"n_embd": 128}}, {"config": {"n_embd": 64}}, "config.n_embd: 128 against 64"),
        ({"a": 1}, {"a": 1, "b": 2}, "b: missing against 2"),
        ({"a": 1, "b": None}, {"a": 1}, "b: None against missing"),
        ({"trials": [{"v": 1}, {"v": 2}]}, {"trials": [{"v": 1}, {"v": 3}]}, "trials[1].v: 2 against 3"),
        ({"vary": ["init"]}, {"vary": []}, "vary: init against nothing"),
        ({"a": {"b": 1}}, {"a": 1}, "a: {'b': 1} against 1"),
    ],
)
def test_the_first_difference_is_named(expected, found, says):
    assert json_files.first_difference(expected, found) == says


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
