"""Claims about configurations: what they are by default, and what is refused before any work begins."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import UserError
from config import Config
from config_cpu import ConfigCPU

FIELDS = (
    "n_layer n_head n_embd block_size dropout batch_size learning_rate weight_decay max_iters eval_interval eval_iters"
    " curve_windows dtype threads_per_trial cooldown eval_spacing branch_step"
).split()
COUNTS = [name for name in FIELDS if type(getattr(Config(), name)) is int and name != "branch_step"]

configs = st.builds(
    lambda cls, head, width, **others: cls(n_head=head, n_embd=head * width, **others),
    cls=st.sampled_from([Config, ConfigCPU]),
    head=st.integers(1, 8),
    width=st.integers(1, 64),
    n_layer=st.integers(1, 12),
    dropout=st.floats(0, 1, exclude_max=True),
    learning_rate=st.floats(1e-300, 1e300),
    weight_decay=st.floats(0, 1e300),
    dtype=st.sampled_from(["float32", "bfloat16"]),
    cooldown=st.floats(0, 1),
    eval_spacing=st.sampled_from(["linear", "log"]),
    threads_per_trial=st.integers(1, 512),
)


def test_the_two_configurations_are_the_ones_of_the_report():
    full = (6, 6, 384, 256, 0.2, 64, 3e-4, 0.01, 5000, 500, 200, 50, "bfloat16", 1, 0.0, "linear", 0)
    small = (2, 4, 128, 128, 0.2, 32, 3e-4, 0.01, 100, 50, 50, 50, "float32", 1, 0.0, "linear", 0)
    assert Config().as_dict() == dict(zip(FIELDS, full))
    assert ConfigCPU().as_dict() == dict(zip(FIELDS, small))
    assert list(ConfigCPU().as_dict()) == FIELDS


def test_every_field_has_one_line_of_help():
    texts = {spec.name: spec.metadata["help"] for spec in dataclasses.fields(Config)}
    assert list(texts) == FIELDS
    assert all(text and "\n" not in text for text in texts.values())


def test_the_learning_rate_falls_linearly_to_zero_over_the_cooldown():
    config = ConfigCPU(learning_rate=1.0, max_iters=10, cooldown=0.4)
    assert [config.learning_rate_at(step) for step in range(11)] == [1.0] * 7 + [0.75, 0.5, 0.25, 0.0]
    assert {ConfigCPU().learning_rate_at(step) for step in range(100)} == {3e-4}


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_the_curves_begin_at_0_and_end_at_the_last_step_in_either_spacing(max_iters, eval_interval):
    for spacing in ("linear", "log"):
        config = ConfigCPU(max_iters=max_iters, eval_interval=eval_interval, eval_spacing=spacing)
        steps = config.curve_steps()
        assert (steps[0], steps[-1]) == (0, max_iters) and steps == sorted(set(steps))
    assert all(step & (step - 1) == 0 for step in steps[:-1]), "powers of two"
    assert len(steps) <= 2 + max_iters.bit_length()


def test_a_configuration_cannot_be_changed_after_it_was_checked():
    config = ConfigCPU()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.n_layer = 0
    assert config.replace(n_layer=3).n_layer == 3 and config.n_layer == 2
    with pytest.raises(UserError):
        config.replace(n_layer=0)


@given(configs)
def test_a_configuration_survives_json(config):
    import json

    assert Config(**json.loads(json.dumps(config.as_dict()))).as_dict() == config.as_dict()


def test_equal_numbers_are_one_identity():
    """learning_rate=1 and learning_rate=1.0 name the same trial, so they must be the same JSON."""
    integer, real = Config(learning_rate=1, dropout=0), Config(learning_rate=1.0, dropout=0.0)
    assert integer == real
    assert repr(integer.as_dict()) == repr(real.as_dict())


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("value", [0, -1])
def test_a_count_below_one_is_refused_by_name(name, value):
    with pytest.raises(UserError, match=rf"^{name} must be at least 1, but it is {value}$"):
        ConfigCPU(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", 0.0),
        ("learning_rate", -1e-3),
        ("learning_rate", math.inf),
        ("learning_rate", math.nan),
        ("weight_decay", -1e-9),
        ("weight_decay", math.inf),
        ("weight_decay", math.nan),
        ("dropout", -0.1),
        ("dropout", 1.0),
        ("dropout", math.nan),
        ("n_layer", 2.0),
        ("n_layer", "2"),
        ("n_layer", True),
        ("n_layer", None),
        ("dropout", "0.2"),
        ("dtype", 32),
        ("branch_step", -1),
        ("branch_step", 100),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_by_name(name, value):
    with pytest.raises(UserError, match=f"^{name} must ") as caught:
        ConfigCPU(**{name: value})
    assert "\n" not in str(caught.value)


def test_sizes_that_do_not_divide_are_refused():
    with pytest.raises(UserError, match="n_embd must be a multiple of n_head, but 130 is not a multiple of 4"):
        ConfigCPU(n_embd=130)


def test_an_unknown_dtype_names_the_nearest_and_all():
    with pytest.raises(UserError, match=r"unknown dtype 'bfloat'; did you mean 'bfloat16'\? known: float32, bfloat16"):
        ConfigCPU(dtype="bfloat")
