"""Claims about what a report says was run: nothing of the configuration that is unusual is left out."""

from pathlib import Path

import analyze_results
from config import Config
from config_cpu import ConfigCPU
from report.facts import _further_fields, what_is_missing


def test_unusual_fields_of_the_configuration_are_shown_without_being_listed_anywhere():
    assert _further_fields(Config().as_dict()) == _further_fields(ConfigCPU().as_dict()) == ""
    config = ConfigCPU(cooldown=0.2, eval_spacing="log", dropout=0.1, n_embd=64)
    assert _further_fields(config.as_dict()) == ", cooldown 0.2, eval spacing log"
    assert _further_fields({"n_layer": 2, "max_iters": 100}) == ""  # of a study from before a field was added


def test_a_shipped_study_lacks_nothing():
    study = analyze_results.read_study(Path(__file__).resolve().parents[2] / "results" / "reference" / "matched")
    assert what_is_missing(study.cells, study.planned) == []
