"""Claims about kernels and representations: closed forms, invariances, and no similarity where there is none."""

import numpy as np
import pytest
import torch
from studies import a_trial
from torch import nn

from diagnostics.kernels import kernel_alignment, linear_cka, tangent_kernel

RNG = np.random.default_rng(0)


class Linear(nn.Module):
    """Logits that are linear in fixed features of the token."""

    def __init__(self):
        super().__init__()
        self.features = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
        self.layer = nn.Linear(4, 3, bias=False)

    def forward(self, tokens):
        return self.layer(self.features[tokens])


def test_the_kernel_of_a_linear_model_is_that_of_its_features():
    model, tokens = Linear(), torch.arange(6).view(2, 3)
    expected = (model.features @ model.features.T).numpy()
    np.testing.assert_allclose(tangent_kernel(model, tokens, 6, a_trial().config), expected, rtol=1e-5, atol=1e-6)
    half = tangent_kernel(model, tokens, 3, a_trial().config)
    np.testing.assert_allclose(half, expected[::2, ::2], rtol=1e-5, atol=1e-6)


def test_alignment_is_one_with_itself_whatever_the_scale_and_offset_and_about_zero_with_noise():
    features = RNG.standard_normal((40, 3))
    k, other = features @ features.T, RNG.standard_normal((40, 200))
    assert kernel_alignment(k, 3 * k + 5) == pytest.approx(1)
    assert abs(kernel_alignment(k, other @ other.T)) < 0.5
    assert kernel_alignment(k, np.ones((40, 40))) == 0.0


def test_cka_ignores_rotations_and_scale_and_is_unbiased_for_independent_representations():
    x = RNG.standard_normal((50, 6))
    rotation, _ = np.linalg.qr(RNG.standard_normal((6, 6)))
    assert linear_cka(x, 2 * x @ rotation + 1) == pytest.approx(1)
    found = [linear_cka(RNG.standard_normal((20, 30)), RNG.standard_normal((20, 30))) for _ in range(300)]
    assert np.mean(found) == pytest.approx(0, abs=3 * np.std(found) / np.sqrt(300))
