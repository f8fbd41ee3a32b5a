"""Claims about the architectures with a part taken away: that part, and nothing else, is missing."""

import pytest
import torch
from torch import nn

from architectures import checks
from architectures.registry import ARCHITECTURES, VARIANTS, architecture_record, build_model, initialize
from common.errors import UserError
from config_cpu import ConfigCPU
from run_all_experiments import parser
from study.choices import chosen_experiments

TINY = ConfigCPU(n_layer=2, n_head=2, n_embd=16, block_size=12)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_is_a_model_that_learns_and_lacks_what_its_name_says(name):
    base, _, part = name.partition("_")
    case = checks.Case(name, "gelu", checks.tiny_config(ConfigCPU()))
    for check in (checks.gives_logits, checks.activation_acts, checks.learns_everywhere, checks.starts_ignorant):
        assert check(case) is None
    model = initialize(build_model(name, "relu", TINY, 9), 1)
    norms = sum(isinstance(m, nn.LayerNorm) for m in model.modules())
    whole = sum(isinstance(m, nn.LayerNorm) for m in build_model(base, "relu", TINY, 9).modules())
    assert norms == (0 if part in ("no_norm", "plain") else whole)
    assert "a part" not in VARIANTS[name].description and VARIANTS[name].name == name


def test_without_a_residual_connection_nothing_goes_past_a_silenced_feed_forward():
    tokens = torch.arange(12)[None] % 9
    for name, passes in (
        ("charlm", True),
        ("charlm_no_norm", True),
        ("charlm_no_residual", False),
        ("charlm_plain", False),
    ):
        model = initialize(build_model(name, "relu", TINY, 9), 1)
        with torch.no_grad():
            model.blocks[0].feed_forward.contract.weight.zero_()
            model.blocks[0].feed_forward.contract.bias.zero_()
            outputs = model(tokens)[0]
        assert bool((outputs.std(0) > 1e-6).any()) == passes, name


def test_all_leaves_the_variants_out_and_each_can_be_named():
    args = parser().parse_args(["--architectures", "all", "--activations", "relu"])
    assert {name for name, _ in chosen_experiments(args)[0]} == {
        n for n, a in ARCHITECTURES.items() if a.task == "text"
    }
    args = parser().parse_args(["--architectures", "charlm_plain", "--activations", "relu"])
    assert chosen_experiments(args)[0] == [("charlm_plain", "relu")]
    assert architecture_record("mlp_no_norm").solved
    with pytest.raises(UserError, match="charlm_no_nrom"):
        architecture_record("charlm_no_nrom")
