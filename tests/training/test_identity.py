"""Claims about identities: what is another study, and that fields added later part no stored study from its identity."""

import json
import re

import pytest
import studies

from common import json_files
from common.errors import RunError, UserError
from config_cpu import ConfigCPU
from training.identity import (
    complete,
    difference_of_identities,
    difference_of_studies,
    holds_study,
    identity_of,
    open_study,
)

ADDED = ("cooldown", "eval_spacing", "branch_step")


def identity(**changes):
    return {"protocol": "matched", "config": ConfigCPU(**changes).as_dict()}


def old_identity(**changes):
    """As it was stored before the fields of ADDED."""
    config = {name: v for name, v in identity(**changes)["config"].items() if name not in ADDED}
    return identity() | {"config": config}


def test_another_identity_is_refused_by_naming_the_field(tmp_path):
    open_study(tmp_path, identity(), {"git_commit": "x"})
    before = (tmp_path / "study.json").read_bytes()
    open_study(tmp_path, identity(), {"git_commit": "y"})
    with pytest.raises(UserError, match=r"other settings \(config.n_embd: 128 there, 64 asked for\)"):
        open_study(tmp_path, identity(n_embd=64), {})
    assert (tmp_path / "study.json").read_bytes() == before


def test_a_study_stored_before_a_field_was_added_is_the_same_study(tmp_path):
    assert difference_of_identities(old_identity(), identity()) is None
    assert difference_of_identities(old_identity(), identity(cooldown=0.2)) == "config.cooldown: 0.0 against 0.2"
    assert complete(old_identity()) == complete(identity())
    json_files.write_json(tmp_path / "study.json", {"identity": old_identity()})
    before = (tmp_path / "study.json").read_bytes()
    open_study(tmp_path, identity(), {})
    assert (tmp_path / "study.json").read_bytes() == before, "it stays valid without rewriting"


def test_results_without_their_study_are_not_taken_over(tmp_path):
    json_files.write_json(tmp_path / "charlm_relu.json", {"a": 1})
    with pytest.raises(UserError, match=r"holds results but no study\.json"):
        open_study(tmp_path, identity(), {})
    assert [path.name for path in tmp_path.iterdir()] == ["charlm_relu.json"]


def test_a_damaged_study_is_named_and_left(tmp_path):
    open_study(tmp_path, identity(), {})
    path = tmp_path / "study.json"
    path.write_bytes(path.read_bytes()[:-20])
    before = path.read_bytes()
    with pytest.raises(RunError, match=re.escape(str(path))):
        open_study(tmp_path, identity(), {})
    assert path.read_bytes() == before


def test_a_new_activations_learning_rate_is_added_and_a_changed_one_is_another_study(tmp_path):
    first = identity() | {"learning_rates": {"gelu": 2e-3}}
    open_study(tmp_path, first, {})
    open_study(tmp_path, identity() | {"learning_rates": {"swish": 4e-3}}, {})
    stored = json_files.read_json(tmp_path / "study.json")["identity"]
    assert stored["learning_rates"] == {"gelu": 2e-3, "swish": 4e-3}
    assert holds_study(tmp_path, identity()), "the common rate alone is the same study"
    with pytest.raises(UserError, match=r"learning_rates.gelu: 0.002 there, 0.001 asked for"):
        open_study(tmp_path, identity() | {"learning_rates": {"gelu": 1e-3}}, {})


def test_an_experiments_identity_holds_its_complete_configuration():
    study = old_identity() | {"learning_rates": {"gelu": 2e-3, "minigpt": 4e-3}}
    rates = {
        key: identity_of(study, *key)["config"]["learning_rate"]
        for key in (("charlm", "relu"), ("charlm", "gelu"), ("minigpt", "relu"))
    }
    assert rates == {("charlm", "relu"): 3e-4, ("charlm", "gelu"): 2e-3, ("minigpt", "relu"): 4e-3}
    assert "learning_rates" not in identity_of(study, "charlm", "gelu")
    json.dumps(identity_of(study, "charlm", "gelu"), allow_nan=False)


def test_studies_that_differ_elsewhere_are_different_whatever_their_rates():
    one, other = identity() | {"learning_rates": {"gelu": 1e-3}}, identity(max_iters=7) | {"learning_rates": {}}
    assert difference_of_studies(one, other) == "config.max_iters: 100 against 7"


def test_a_study_from_before_a_field_was_added_is_resumed_verified_and_analysed(tmp_path, tiny_corpus_file):
    study = ("run_all_experiments.py", *studies.TINY, "--corpus", tiny_corpus_file, "--activations", "relu", "gelu")
    assert studies.run(*study, "--trials=2", folder=tmp_path).status == 0
    for path in (tmp_path / "results").glob("*.json"):
        content = json_files.read_json(path)
        for name in ADDED:
            del content["identity"]["config"][name]
        json_files.write_json(path, content)
    before = json_files.read_json(tmp_path / "results" / "charlm_relu.json")["trials"]
    run = studies.run(*study, "--trials=3", folder=tmp_path)
    assert run.status == 0 and "2 trials to train, 4 already done" in run.out, run.out + run.err
    assert json_files.read_json(tmp_path / "results" / "charlm_relu.json")["trials"][:2] == before
    verify = ("--verify", "results/charlm_relu.json", "--trial", "1", "--corpus", tiny_corpus_file)
    assert "identical: weights_sha256" in studies.run("train.py", *verify, folder=tmp_path).out
    analysed = studies.run("analyze_results.py", "--no-figures", folder=tmp_path)
    assert analysed.status == 0, analysed.out + analysed.err


def test_a_study_of_batched_trials_of_an_earlier_version_is_analysed_and_not_continued(tmp_path, tiny_corpus_file):
    study = ("run_all_experiments.py", *studies.TINY, "--corpus", tiny_corpus_file, "--activations", "relu", "gelu")
    assert studies.run(*study, "--trials=2", folder=tmp_path).status == 0
    for path in (tmp_path / "results").glob("*.json"):
        content = json_files.read_json(path)
        content["identity"]["pack"] = 2
        json_files.write_json(path, content)
    analysed = studies.run("analyze_results.py", "--no-figures", folder=tmp_path)
    assert analysed.status == 0, analysed.out + analysed.err
    again = studies.run(*study, "--trials=3", folder=tmp_path)
    assert again.status == 2 and "(pack: 2 there, missing asked for)" in again.err, again.err
    verify = ("--verify", "results/charlm_relu.json", "--corpus", tiny_corpus_file)
    verified = studies.run("train.py", *verify, folder=tmp_path)
    assert verified.status == 2 and verified.err.startswith(
        "error: these trials were trained 2 at a time in one batched"
    )
