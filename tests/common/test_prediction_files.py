"""Predictions from other programs: what is read of a folder, and what is refused, in one sentence that names the file."""

import io
import pickle
import zipfile

import numpy as np
import pytest
from own_predictions import place

from common.errors import UserError
from common.prediction_files import load, rows

P = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.25, 0.5, 0.25], [1.0, 0.0, 0.0]])
Y = np.array([0, 2, 0, 0])


def csv_of(array, heading=None):
    lines = [heading] if heading else []
    return "\n".join([*lines, *(",".join(map(str, row)) for row in array.tolist())]) + "\n"


def only(predictions):
    """The values of the first trial of the first variant."""
    file = next(iter(next(iter(predictions.trials.values())).values()))
    return rows(file, 0, predictions.n_rows)


# --- what is read ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("1.npy", P),
        ("1.npy", np.asfortranarray(P)),
        ("1.npz", {"anything": P}),
        ("1.npz", {"predictions": P, "features": Y}),
        ("1.csv", csv_of(P)),
        ("1.csv", csv_of(P, "0,1,2")),  # as pandas writes a table without names
        ("1.csv", csv_of(P, "cat,dog,fox")),
        ("1.CSV", "\ufeff" + csv_of(P, "cat,dog,fox")),  # as Excel writes it
    ],
)
def test_the_same_probabilities_are_read_from_every_format(tmp_path, name, content):
    found = load(place(tmp_path, {f"relu/{name}": content, "relu/2.npy": P}, Y))
    assert (found.kind, found.shape) == ("probabilities", (4, 3))
    assert np.array_equal(only(found), P)
    assert found.truth.tolist() == Y.tolist()


def test_parquet_is_read_where_pyarrow_is_installed_and_else_named(tmp_path):
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        with pytest.raises(UserError, match=r"1\.parquet needs the package pyarrow"):
            load(place(tmp_path, {"relu/1.parquet": b"PAR1", "relu/2.npy": P}))
        return
    (tmp_path / "relu").mkdir()
    for trial in "12":
        parquet.write_table(pyarrow.table(P.T.tolist(), names=["a", "b", "c"]), tmp_path / f"relu/{trial}.parquet")
    assert np.array_equal(only(load(tmp_path)), P)


def test_trials_are_in_natural_order_and_hidden_files_are_left_out(tmp_path):
    place(tmp_path, {f"relu/seed_{k}.npy": P for k in (10, 9, 1)} | {"relu/.DS_Store": "x", ".git/x": "x"})
    assert {name: list(trials) for name, trials in load(tmp_path).trials.items()} == {
        "relu": ["seed_1", "seed_9", "seed_10"]
    }


@pytest.mark.parametrize(
    ("labels", "codes"),
    [
        ("fox\ncat\nfox\nfox\n", [2, 0, 2, 2]),
        ("label\nfox\ncat\nfox\nfox\n", [2, 0, 2, 2]),
        ("2\n0\n2\n2\n", [2, 0, 2, 2]),
        ("2.0\n0.0\n2.0\n2.0\n", [2, 0, 2, 2]),
    ],
)
def test_true_classes_are_given_by_name_or_by_number(tmp_path, labels, codes):
    place(tmp_path, {"relu/1.csv": csv_of(P, "cat,dog,fox"), "relu/2.npy": P, "labels.csv": labels})
    assert load(tmp_path).truth.tolist() == codes


def test_numbers_that_name_classes_are_names(tmp_path):
    place(
        tmp_path,
        {f"relu/{k}.npz": {"predictions": P, "classes": np.array([1, 2, 5])} for k in (1, 2)},
        np.array([1, 5, 1, 2]),
    )
    assert load(tmp_path).truth.tolist() == [0, 2, 0, 1]


def test_hard_labels_are_coded_alike_in_every_trial_and_the_truth(tmp_path):
    answers = {"1": ["no", "yes", "no"], "2": ["yes", "maybe", "no"]}
    place(
        tmp_path,
        {f"bert/{k}.csv": "\n".join(["prediction", *a]) for k, a in answers.items()},
        np.array(["no", "no", "so"]),
    )
    found = load(tmp_path)
    assert (found.kind, found.classes) == ("labels", ("maybe", "no", "so", "yes"))
    coded = [rows(file, 0, 3) for file in found.trials["bert"].values()]
    assert [[found.classes[code] for code in codes] for codes in coded] == list(answers.values())
    assert [found.classes[code] for code in found.truth] == ["no", "no", "so"]


def test_windows_are_read_row_by_row_and_blocks_never_split_one(tmp_path):
    windows = np.stack([P, P[::-1]]).repeat(600, axis=0)
    found = load(place(tmp_path, {"relu/1.npy": windows, "relu/2.npy": windows}, np.tile(Y, (1200, 1))))
    assert found.shape == (1200, 4, 3) and found.n_rows == 4800
    assert np.array_equal(rows(found.trials["relu"]["1"], 2398, 2402), windows.reshape(-1, 3)[2398:2402])
    blocks = found.blocks.reshape(1200, 4)
    assert (blocks == blocks[:, :1]).all() and blocks.max() == 999


def test_groups_are_kept_whole_in_at_most_a_thousand_blocks(tmp_path):
    groups = np.random.default_rng(0).permutation(np.arange(3000) % 1500)
    place(tmp_path, {"relu/1.npy": np.tile([0.5, 0.5], (3000, 1)), "relu/2.npy": np.tile([0.5, 0.5], (3000, 1))})
    np.save(tmp_path / "groups.npy", groups)
    blocks = load(tmp_path, groups=tmp_path / "groups.npy").blocks
    assert set(blocks) == set(range(1000))
    assert all(len(set(blocks[groups == group])) == 1 for group in range(1500))


def test_logits_and_log_probabilities_are_read_on_request(tmp_path):
    with np.errstate(divide="ignore"):
        found = load(place(tmp_path, {"relu/1.npy": 3 * P - 1, "relu/2.npy": np.log(P)}), logits=True)
    assert found.kind == "logits"


# --- what is refused ------------------------------------------------------------------------------------------------

NAN = np.where(P == 0.8, np.nan, P)
OBJECTS = io.BytesIO()
np.save(OBJECTS, np.array([[0.5, 0.5], [1.0]], dtype=object), allow_pickle=True)
GOOD = {"relu/1.npy": P, "relu/2.npy": P, "gelu/1.npy": P}


@pytest.mark.parametrize(
    ("files", "labels", "says"),
    [
        ({"gelu/2.npy": P[:3]}, None, r"gelu/2.npy has shape \(3, 3\), but .*gelu/1.npy has \(4, 3\)"),
        ({"gelu/2.npy": P[:, :2]}, None, r"shape \(4, 2\), but .*\(4, 3\); all trials must have the same"),
        ({"gelu/2.npy": Y}, None, r"gelu/2.npy has shape \(4,\), but .*gelu/1.npy has \(4, 3\)"),
        ({"gelu/2.npy": P + 0.1}, None, r"gelu/2.npy does not contain probabilities .* add --logits .* row \(counting from 0\) is 0: 0.8"),
        ({"gelu/2.npy": P - [0, 0, 0.3]}, None, r"gelu/2.npy does not contain probabilities"),
        ({"gelu/2.npy": np.log(P + 0.1)}, None, r"gelu/2.npy does not contain probabilities .* logits or log-probabilities"),
        ({"gelu/2.npy": NAN}, None, r"gelu/2.npy contains NaN; .* is 1: 0.1, 0.1, nan"),
        ({"gelu/2.npy": OBJECTS.getvalue()}, None, r"gelu/2.npy contains Python objects, stored as a pickle"),
        ({"gelu/2.npy": pickle.dumps(P)}, None, r"gelu/2.npy contains Python objects, stored as a pickle"),
        ({"gelu/2.pkl": pickle.dumps(P)}, None, r"gelu/2.pkl is a pickle, which can run code"),
        ({"gelu/2.pt": b"x"}, None, r"gelu/2.pt is a pickle"),
        ({"gelu/2.npy": b"\x93NUMPY\x01"}, None, r"gelu/2.npy is damaged"),
        ({"gelu/2.npz": b"PK\x03\x04"}, None, r"gelu/2.npz is damaged or not a file of numpy.savez"),
        ({"gelu/2.npz": {"a": P, "b": P}}, None, r"gelu/2.npz contains 2 arrays \(a, b\); name the one to read 'predictions'"),
        ({"gelu/2.npy": np.zeros((0, 3))}, None, r"gelu/2.npy is "),
        ({"gelu/2.npy": P.astype(complex)}, None, r"gelu/2.npy contains complex128 values"),
        ({"gelu/2.npy": P, "gelu/2.csv": csv_of(P)}, None, r"gelu/2.csv and 2.npy are both trial '2'"),
        ({"gelu/2.npy": P, "gelu/notes.txt": "x"}, None, r"gelu/notes.txt is not a file of predictions"),
        ({"study.json": "{}"}, None, r"is a study, not a folder of predictions; write .* --export-predictions DIR"),
        ({}, None, r"gelu contains 1 trial; comparing models takes at least two"),
        ({"gelu/2.npy": P}, Y[:3], r"labels.npy contains labels of shape \(3,\), but the predictions of .* need \(4,\)"),
        ({"gelu/2.npy": P}, Y + 1, r"labels.npy contains the label 3, but there are 3 classes: 0 to 2"),
        ({"gelu/2.npy": P}, Y - 1, r"labels.npy contains the label -1"),
        ({"gelu/2.npy": P}, Y + 0.5, r"labels.npy contains 1-dimensional values that are not integers"),
        ({"gelu/2.npy": P}, np.where(Y == 2, np.nan, Y), r"labels.npy contains NaN, first at 1"),
        ({"gelu/2.npy": P}, np.array(list("abca")), r"contains the label 'a', but the classes are numbered"),
        ({"gelu/2.npz": {"predictions": P, "labels": Y[::-1]}}, Y, r"gelu/2.npz and .*labels.npy contain different labels"),
        ({"gelu/2.npy": P, "labels.csv": "0\n2\n0\n0\n"}, Y, r"labels.csv and labels.npy both contain labels"),
        (
            {"gelu/2.csv": csv_of(P, "cat,dog,fox"), "gelu/3.csv": csv_of(P, "dog,cat,fox")}, None,
            r"gelu/3.csv has the classes dog, cat, fox, but .*2.csv has cat, dog, fox",
        ),
        ({"gelu/2.csv": csv_of(P).replace(",", ";")}, None, r"gelu/2.csv separates columns by semicolons; use commas"),
        ({"gelu/2.csv": csv_of(P, ",a,b")}, None, r"gelu/2.csv starts with an unnamed column, an index"),
        ({"gelu/2.csv": csv_of(P).replace("0.8", "high")}, None, r"gelu/2.csv is not a table of comma-separated numbers.* 'high'"),
        ({"gelu/2.csv": ""}, None, r"gelu/2.csv is empty"),
    ],
)  # fmt: skip
def test_what_will_not_do_is_named_in_one_sentence(tmp_path, files, labels, says):
    with pytest.raises(UserError, match=says) as error:
        load(place(tmp_path, GOOD | files, labels))
    assert "\n" not in str(error.value)


def test_one_column_is_no_probabilities_and_fractions_are_no_labels(tmp_path):
    with pytest.raises(UserError, match=r"values of shape \(4, 1\); expected are predictions"):
        load(place(tmp_path / "a", {"relu/1.npy": P[:, :1], "relu/2.npy": P[:, :1]}))
    with pytest.raises(
        UserError, match=r"not integers; .* probabilities have one column per class, even for two classes"
    ):
        load(place(tmp_path / "b", {"relu/1.npy": P[:, 0], "relu/2.npy": P[:, 0]}))


def test_logits_where_probabilities_are_and_the_reverse_are_refused(tmp_path):
    place(tmp_path, {"relu/1.npy": 3 * P, "relu/2.npy": P})
    with pytest.raises(UserError, match=r"2.npy contains probabilities, not logits: .* leave out --logits"):
        load(tmp_path, logits=True)
    with pytest.raises(UserError, match=r"1.npy does not contain probabilities"):
        load(tmp_path)
    np.save(tmp_path / "relu/2.npy", np.where(P == 0.8, np.inf, P))
    with pytest.raises(UserError, match=r"2.npy contains an infinite logit"):
        load(tmp_path, logits=True)
    with pytest.raises(UserError, match=r"holds labels \(N,\), not logits"):
        load(place(tmp_path / "labels", {"relu/1.npy": Y, "relu/2.npy": Y}), logits=True)


def test_labels_that_are_numbers_here_and_texts_there_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"the labels in .*2.npy are strings, but those in .*1.npy are numbers"):
        load(place(tmp_path, {"relu/1.npy": Y, "relu/2.npy": np.array(list("abca"))}))


@pytest.mark.parametrize(
    ("groups", "says"),
    [
        (None, r"groups.npy \(--groups\) does not exist"),
        (Y[:3], r"has shape \(3,\), but there are 4 examples"),
        (np.zeros(4), r"has only one group"),
    ],
)
def test_groups_that_will_not_do_are_named(tmp_path, groups, says):
    place(tmp_path, {"relu/1.npy": P, "relu/2.npy": P})
    if groups is not None:
        np.save(tmp_path / "groups.npy", groups)
    with pytest.raises(UserError, match=says):
        load(tmp_path, groups=tmp_path / "groups.npy")


def test_a_folder_without_variants_is_named(tmp_path):
    with pytest.raises(UserError, match="is not a folder"):
        load(tmp_path / "missing")
    np.save(tmp_path / "1.npy", P)
    with pytest.raises(UserError, match=r"contains no folder; predictions are read from .*/<variant>/<trial>\.npz"):
        load(tmp_path)


def test_an_archive_that_is_cut_is_named(tmp_path):
    place(
        tmp_path,
        {"relu/1.npz": {"predictions": np.tile(P, (100, 1))}, "relu/2.npz": {"predictions": np.tile(P, (100, 1))}},
    )
    path = tmp_path / "relu/2.npz"
    with zipfile.ZipFile(path) as archive:
        offset = archive.getinfo("predictions.npy").header_offset + 100
    content = bytearray(path.read_bytes())
    content[offset] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"2\.npz is damaged"):
        load(tmp_path)
