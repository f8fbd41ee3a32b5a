"""Claims about digests of weights, and about what makes two files the same."""

import hashlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common import checkpoint_files, json_files

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def digest(content):
    """A digest of any content that the readers give."""
    found = hashlib.sha256()
    checkpoint_files.add_to_digest(found, content)
    return found.hexdigest()


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
