"""What docs/diagnostics.md and docs/domains.md say is what the shipped measurements and studies hold."""

import json

import diagnostics_page
import domains_page
import numpy as np
import pytest

from analysis.estimates import at_level
from analysis.results import Margins, activation_sensitivity, estimate, share_of
from analysis.significance import holm

DIAGNOSTICS, DOMAINS = (
    " ".join(page.read_text(encoding="utf-8").split()) for page in (diagnostics_page.PAGE, domains_page.PAGE)
)


def test_the_tables_of_the_diagnostics_are_those_of_their_measurements(tmp_path):
    page = diagnostics_page.PAGE.read_text(encoding="utf-8")
    assert diagnostics_page.filled(page, diagnostics_page.blocks(tmp_path)) == page


def test_the_models_of_the_gradient_probes_are_those_of_the_ground_truth_and_their_noise_scales_as_said():
    cases, truth = (
        json.loads(path.read_text(encoding="utf-8"))["cases"]
        for path in (diagnostics_page.GRADIENTS, diagnostics_page.CASES)
    )
    digests = [
        (trial["weights_sha256"], truth[name]["truth"]["weights_sha256"][activation][k])
        for name, case in cases.items()
        for activation, trials in case.items()
        for k, trial in enumerate(trials)
    ]
    assert len(cases) == len(truth) == 38 and len(digests) == 304 and all(ours == theirs for ours, theirs in digests)
    scales = {name: diagnostics_page.phases_of(case)["noise scale, second half"] for name, case in cases.items()}
    low = sorted(round(scales[f"medium/{name}"]) for name in ("charlm", "minigpt", "nanotransformer"))
    high = sorted(round(scales[f"medium/{name}"]) for name in ("tinylstm", "gru", "rnn"))
    assert f"{low[0]} to {low[-1]} in CharLM, MiniGPT and NanoTransformer" in DIAGNOSTICS
    assert f"{high[0]} to {high[-1]} in TinyLSTM, GRU and RNN" in DIAGNOSTICS


@pytest.fixture(scope="module")
def domains():
    return domains_page.studies()


def test_the_tables_of_the_other_domains_are_those_of_their_studies_and_the_levels_are_reached(domains):
    page = domains_page.PAGE.read_text(encoding="utf-8")
    assert domains_page.filled(page, domains_page.blocks()) == page
    for name, level in domains_page.LEVELS.items():
        assert max(domains_page.reached(domains[name]).values()) >= level


def test_what_is_said_of_the_other_domains_is_what_their_studies_show(domains):
    ratios = {name: of for name, of in domains_page.ratios(domains).items() if len(of) == 4}
    smelu = [[max([*of.items(), ("relu", (0, 0))], key=lambda x: x[1][k])[0] for k in (0, 1)] for of in ratios.values()]
    highest_loss, highest_pd = np.sum(np.array(smelu) == "smelu_1", axis=0)
    assert f"the highest loss in {highest_loss} of the {len(ratios)} classifiers" in DOMAINS
    assert f"and the highest relative PD in {highest_pd}." in DOMAINS
    points = np.array([point for of in domains_page.ratios(domains).values() for point in of.values()])
    more, less = points[points[:, 0] > 0, 1] > 0, points[points[:, 0] < 0, 1] < 0
    expected = f"in {more.sum()} of the {len(more)} comparisons with a higher validation loss, and lower in {less.sum()} of the {len(less)}"
    assert expected in DOMAINS
    smooth = ("gelu", "swish", "smelu_1_centred")
    for architecture, low, high in (("audio_cnn", 0.73, 0.78), ("audio_transformer", 1.29, 1.41)):
        found = np.exp([ratios[f"spoken: {architecture}"][name][1] for name in smooth])
        assert (round(found.min(), 2), round(found.max(), 2)) == (low, high)
    sizes = [cell.result["n_parameters"] for study in domains.values() for cell in study.cells]
    assert f"({round(min(sizes), -3):,} to {round(max(sizes), -3):,} parameters)" in DOMAINS


def test_what_is_said_of_policies_is_what_their_study_shows(domains):
    policies = domains["cartpole"].cells
    assert {trial["score"]["value"] for cell in policies for trial in cell.trials.values()} == {500.0}
    churn = [estimate(cell, "top1_disagreement").mean for cell in policies]
    assert f"{min(churn):.0%}".rstrip("%") + f" to {max(churn):.0%} of the fixed states" in DOMAINS


def test_which_networks_stay_sensitive_without_uncentred_smelu_or_corrected_for_their_number(domains):
    groups = {(name, a): cells for name, study in domains.items() for a, cells in study.architectures.items()}
    three = {("digits", "vit"), ("spoken", "audio_cnn"), ("spoken", "audio_transformer")}
    margins = Margins()
    rest = {name: [c for c in cells if c.activation != "smelu_1"] for name, cells in groups.items()}
    found = {name: activation_sensitivity(cells, margins)["relative_pd"] for name, cells in rest.items()}
    assert {name for name, one in found.items() if one.verdict == "sensitive"} == three
    found = {name: activation_sensitivity(cells, margins)["relative_pd"] for name, cells in groups.items()}
    adjusted = dict(zip(found, holm([one.minimum_effect_p for one in found.values()])))
    assert {name for name, p in adjusted.items() if p <= 0.05} == three
    gelu, relu = domains["fashion"].cells
    interval = at_level(share_of(gelu, relu, "relative_pd"), 0.9)
    assert f"of {interval.low - 100:.1f} to {interval.high - 100:.1f}." in " ".join(
        domains_page.PAGE.read_text(encoding="utf-8").split()
    )
