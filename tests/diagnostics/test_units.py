"""Claims about units: planted dead and linear units are counted, the histogram holds everything, ranks are those of closed forms."""

import numpy as np
import pytest
import torch
from studies import a_trial

from architectures.registry import build_model, initialize
from diagnostics.probes import pre_activation_histogram
from diagnostics.units import EDGES, effective_rank, pre_activations, unit_shares


@pytest.fixture
def case(task):
    config = a_trial().config
    model = initialize(build_model("charlm", "relu", config, task.model_sizes), 1).eval()
    x, _ = task.examples("train", config, "cpu")
    return model, x[:3], config


def test_planted_dead_and_linear_units_are_counted(case):
    model, x, config = case
    hidden = model.blocks[0].feed_forward.expand
    with torch.no_grad():
        hidden.bias[0], hidden.bias[1:3] = -1e3, 1e3
    units = len(hidden.bias) * len(model.blocks)
    assert unit_shares(model, x, config, "relu") == {
        "dead": pytest.approx(1 / units),
        "linear": pytest.approx(2 / units),
    }


def test_the_histogram_holds_every_input_and_the_share_near_zero_is_its_own(case):
    model, x, config = case
    found, summary = pre_activation_histogram(model, (x, None), None, config), pre_activations(model, x, config)
    shares = np.array(list(found.values()))
    assert [float(low) for low in found] == EDGES[:-1].tolist()
    assert shares.sum() == pytest.approx(1) and len(shares) == 48
    assert summary["share_curved"] == pytest.approx(shares[20:28].sum(), abs=1e-6)
    assert summary["sd"] < 1 and summary["share_curved"] > 0.9, "at initialisation inputs are small"


def test_the_effective_rank_is_that_of_closed_forms():
    rng = np.random.default_rng(1)
    rotation, _ = np.linalg.qr(rng.standard_normal((200, 200)))
    assert effective_rank(np.outer(rng.standard_normal(50), rng.standard_normal(8))) == pytest.approx(1)
    assert effective_rank(np.zeros((5, 3))) == 1.0
    isotropic = rotation[:, 1:6] - rotation[:, 1:6].mean(0)
    values = np.linalg.svd(isotropic, compute_uv=False)
    assert effective_rank(isotropic) == pytest.approx(5, rel=0.01 + np.ptp(values))
