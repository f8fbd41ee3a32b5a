"""Claims about the architectures for images: every check, with the activations that differ in kind, and with all in one."""

import pytest
import torch
from grids import grid

from architectures.checks import check
from architectures.registry import ARCHITECTURES, architectures_of, build_model
from config_cpu import ConfigCPU

pytest.importorskip("sklearn", reason="scikit-learn is not installed (requirements-tasks.txt)")
from tasks.registry import load_task

NAMES = architectures_of("images")


@pytest.fixture(scope="module")
def digits():
    return load_task("images")


@pytest.mark.parametrize(("architecture", "activation"), grid("images", "image_mlp"))
def test_an_architecture_with_an_activation_passes_every_check(architecture, activation, digits):
    """The activation acts; it learns everywhere, starts ignorant, can overfit; it is stored and it repeats."""
    assert check(architecture, activation, ConfigCPU(), digits) == []


@pytest.mark.parametrize("architecture", NAMES)
@pytest.mark.parametrize("side", [8, 28])
def test_the_activation_is_applied_once_per_block_at_every_size(architecture, side):
    config = ConfigCPU(n_layer=3, n_embd=8, n_head=2)
    sizes = {"shape": [1, side, side], "n_classes": 10}
    model = build_model(architecture, "mish", config, sizes)
    assert ARCHITECTURES[architecture].n_activations(config) == 3
    assert model(torch.zeros(2, 1, side, side)).shape == (2, 1, 10)


@pytest.mark.parametrize("architecture", NAMES)
def test_a_gated_unit_costs_as_many_parameters_as_an_ungated_one(architecture):
    sizes = {"shape": [1, 28, 28], "n_classes": 10}
    plain, gated = (build_model(architecture, name, ConfigCPU(), sizes).sizes for name in ("relu", "swiglu"))
    assert gated["n_parameters"] == pytest.approx(plain["n_parameters"], rel=0.01)
