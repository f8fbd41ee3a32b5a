"""Claims about the sweep over sizes: the rules, the studies they make, and what is answered from them."""

import json
import math

import pytest
import studies

import scale
from architectures import count_parameters, solve_width
from config import Config
from config_cpu import ConfigCPU
from errors import UserError

SIZES = ("1M", "2M", "5M", "10M", "20M", "50M", "100M")  # of the report's section 7.3


# --- the rules ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", [Config(), ConfigCPU()], ids=["gpu", "cpu"])
@pytest.mark.parametrize("name", SIZES)
def test_a_model_has_the_size_that_was_asked_for(name, base):
    size = scale.size_of(name)
    config = scale.config_for(size, base, 65)
    found = count_parameters("charlm", config, 65)
    assert abs(found / size - 1) <= scale.TOLERANCE
    assert found == scale.n_parameters(config.n_layer, config.n_embd, config.block_size, 65)


@pytest.mark.parametrize("name", ["1M", "10M"])
def test_minigpt_has_the_size_of_charlm(name):
    config = scale.config_for(scale.size_of(name), ConfigCPU(), 65)
    found = count_parameters("minigpt", config, 65, solve_width("minigpt", config, 65))
    assert abs(found / scale.size_of(name) - 1) <= scale.TOLERANCE


@pytest.mark.parametrize("block_size", [64, 128, 256, 512])
def test_shapes_keep_to_the_rule_over_three_powers_of_ten(block_size):
    for step in range(31):
        size = round(1e6 * 10 ** (step / 10))
        n_layer, n_head, width = scale.shape_for(size, block_size, 65)
        assert abs(scale.n_parameters(n_layer, width, block_size, 65) / size - 1) <= scale.TOLERANCE
        assert width % 8 == 0 and width % n_head == 0
        assert 64 / 3.01 <= width / n_layer <= 64 * 3.01 and 46 <= width / n_head <= 90


def test_the_shapes_of_the_sweep_are_these():
    """Pinned: another shape under the same name would be another model under the same name."""
    shapes = [scale.shape_for(scale.size_of(name), 256, 65) for name in SIZES]
    assert shapes == [(3, 2, 160), (3, 4, 232), (5, 4, 288), (5, 6, 408), (7, 8, 488), (10, 10, 640), (12, 13, 832)]


def test_the_learning_rate_is_the_reports_at_the_reports_size_and_falls_with_size():
    rates = [scale.learning_rate_for(scale.size_of(name)) for name in SIZES]
    assert rates == [4e-4, 3.7e-4, 3.3e-4, 3e-4, 2.7e-4, 2.3e-4, 2e-4]
    assert scale.learning_rate_for(10_795_776) == Config().learning_rate


def test_only_the_fields_of_the_rule_change():
    base = ConfigCPU(max_iters=7, dropout=0.1)
    changed = scale.config_for(20_000_000, base, 65).as_dict()
    assert {name for name, value in base.as_dict().items() if changed[name] != value} == set(scale.FIELDS)


@pytest.mark.parametrize(
    ("text", "size", "name"),
    [("1M", 10**6, "1M"), ("1.5m", 1_500_000, "1.5M"), ("2000K", 2_000_000, "2M"), ("3000000", 3_000_000, "3M")],
)
def test_a_size_may_be_typed_in_several_ways_and_has_one_name(text, size, name):
    assert scale.size_of(text) == size and scale.size_name(size) == name
    assert scale.size_of(name) == size


@pytest.mark.parametrize("text", ["", "M", "-5M", "5 M M", "five", "999K", "2G", "nanM", "1e7"])
def test_what_is_no_size_is_refused_in_one_sentence(text):
    with pytest.raises(UserError, match="a size is a number of parameters from 1M to 1000M"):
        scale.size_of(text)


def test_a_vocabulary_that_fills_the_model_is_refused():
    with pytest.raises(UserError, match="no CharLM has 1M parameters within 3% with a vocabulary of 400,000"):
        scale.shape_for(10**6, 128, 400_000)
