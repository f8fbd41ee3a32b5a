"""Claims about sensitivity against size: what is estimated, what is answered, and what is refused."""

import itertools

import numpy as np
import pytest

import metrics
from analysis.results import Cell, Study
from analysis.sensitivity import between_group_sd
from common.errors import UserError
from figures.drawing import draw_all
from report.document import render_text
from report.scales import build, rows_of, slope, trend_verdict

SEVEN = (1e6, 2e6, 5e6, 1e7, 2e7, 5e7, 1e8)


def make_cell(activation, size, effect, n, rng, architecture="charlm"):
    """Trials whose loss and disagreement depend on the activation by `effect`."""
    level = {"relu": -1, "smelu_1": 0, "gelu": 1}.get(activation, 2) * effect
    config = {"n_layer": 3, "n_head": 2, "n_embd": int(size // 8000), "learning_rate": 1e-4, "max_iters": 100}
    identity = {"protocol": "matched", "device": "cpu", "vary": ["init", "data", "dropout"], "config": config}
    trials = [
        {"trial": k, "status": "complete", "val_loss": 1.6 + level + 0.002 * rng.normal(), "history": []}
        for k in range(1, n + 1)
    ]
    pairs = [
        {
            "trial_a": a,
            "trial_b": b,
            "history": [],
            **dict.fromkeys(metrics.METRICS, 0.1 + level + 0.001 * rng.normal()),
        }
        for a, b in itertools.combinations(range(1, n + 1), 2)
    ]
    result = {"architecture": architecture, "activation": activation, "n_parameters": int(size), "trials": trials}
    return Cell(
        {**result, "pairs": pairs, "identity": identity, "corpus": {"label": "shakespeare", "sha256": "0" * 64}}
    )


def make_sweep(effects, n=3, activations=("relu", "smelu_1", "gelu"), architectures=("charlm",)):
    rng = np.random.default_rng(1)
    found = []
    for size, effect in zip(SEVEN, effects):
        cells = [
            make_cell(name, size, effect, n, rng, architecture)
            for architecture in architectures
            for name in activations
        ]
        found.append(Study(f"results/scale_{size:.0f}", cells[0].result["identity"], cells, []))
    return found


FALLING = [0.05 - 0.006 * i for i in range(7)]


def test_the_slope_and_its_interval_are_those_of_a_textbook():
    from scipy.stats import linregress, t

    values = [0.031, 0.027, 0.029, 0.018, 0.021, 0.012, 0.0]
    found, expected = slope(SEVEN, values), linregress(np.log10(SEVEN), values)
    reach = t(5).ppf(0.975) * expected.stderr
    assert found.mean == pytest.approx(expected.slope) and found.standard_error == pytest.approx(expected.stderr)
    assert (found.low, found.high) == pytest.approx((expected.slope - reach, expected.slope + reach))
    assert trend_verdict(found) == "falls" and found.n == 7


def test_two_sizes_decide_nothing():
    found = slope(SEVEN[:3], [0.03, None, 0.01])
    assert found.mean is None and found.reason == "fewer than 3 sizes" and trend_verdict(found) == "inconclusive"


def test_noise_is_seldom_called_a_trend():
    """3 activations x 3 trials at 7 sizes, no difference between the activations: 5 % of sweeps may say otherwise."""
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(200):
        sds = [between_group_sd(rng.normal(size=(3, 3))).mean for _ in SEVEN]
        wrong += trend_verdict(slope(SEVEN, sds)) != "inconclusive"
    assert wrong <= 20  # 5 % of 200, and three standard errors of that


def test_a_sensitivity_that_falls_is_found_and_one_that_stays_is_not(tmp_path):
    for effects, found in ((FALLING, "falls with size"), ([0.03] * 7, "inconclusive")):
        text = render_text(build(make_sweep(effects)))
        assert f"CharLM, Validation loss: {found}" in text and "n = 3 trials at each" in text
        assert text.count("1,000,000") and "100,000,000" in text


def test_only_activations_that_every_size_has_are_compared():
    studies = make_sweep(FALLING)
    extra = make_cell("swish", 1e6, 0.05, 3, np.random.default_rng(2))
    studies[0] = Study(studies[0].folder, studies[0].identity, [*studies[0].cells, extra], [])
    assert rows_of(studies, "charlm") == rows_of(make_sweep(FALLING), "charlm")


def test_each_architecture_has_its_own_answer_and_figure(tmp_path):
    document = build(make_sweep(FALLING, architectures=("charlm", "minigpt")))
    titles = [section.title for section in document.sections]
    assert titles == ["Does sensitivity fall with size?", "CharLM", "MiniGPT", "Methods"]
    drawn = draw_all([(figure.draw, (figure.results, tmp_path, *figure.data)) for figure in document.figures])
    assert {path.name for path in drawn} == {
        "charlm_cpu_sensitivity_against_size.png",
        "minigpt_cpu_sensitivity_against_size.png",
    }


def test_studies_that_differ_in_more_than_size_are_refused_by_name():
    studies = make_sweep(FALLING)
    config = {**studies[1].identity["config"], "max_iters": 50}
    studies[1] = Study(studies[1].folder, {**studies[1].identity, "config": config}, studies[1].cells, [])
    with pytest.raises(UserError, match=r"are not of one sweep: .*max_iters"):
        build(studies)


def test_the_same_size_twice_is_refused():
    studies = make_sweep(FALLING)
    with pytest.raises(UserError, match="studies of the same identity; give one of them"):
        build([studies[0], studies[0]])


def test_one_activation_has_no_sensitivity():
    with pytest.raises(UserError, match="sensitivity needs two activations that every size has"):
        build(make_sweep(FALLING, activations=("relu",)))
