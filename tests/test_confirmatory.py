"""The claim of promise 8: the protocols of the confirmatory studies were committed before their data, and have not changed since."""

import subprocess

import pytest
from studies import ROOT

from common import storage

FOLDER = ROOT / "results" / "reference" / "answer"
PROTOCOL = "results/reference/answer/protocol.md"
ONE_BIT = FOLDER.parent / "one_bit"
STUDIES = sorted(
    path.parent for path in FOLDER.rglob("study.json") if path.parent.name.startswith(("primary", "secondary"))
) + sorted(path.parent for path in ONE_BIT.rglob("study.json"))


def git(*arguments):
    return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)


@pytest.mark.skipif(git("rev-parse").returncode != 0, reason="this is no git checkout, so no commit can be read")
@pytest.mark.skipif(not STUDIES, reason="no confirmatory study is shipped yet")
@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.name)
def test_every_trial_was_made_by_a_clean_commit_that_holds_the_protocol_unchanged(study):
    protocol = f"results/reference/{study.parent.name}/protocol.md"
    current = (ROOT / protocol).read_text(encoding="utf-8")
    results = storage.read_study(study)[1]
    assert results
    commits = {t["environment"]["git_commit"] for result in results for t in result["trials"] if t.get("environment")}
    for commit in commits:
        assert commit is not None and "+changes" not in commit
        assert git("show", f"{commit}:{protocol}").stdout == current, f"{study.name}: {commit}"


def test_the_protocols_values_are_those_of_tuning_and_pilot():
    """The common rate has the lowest mean loss; the common loss is the pilot's highest at step 800, rounded up."""
    import math

    text = (ROOT / PROTOCOL).read_text(encoding="utf-8")
    means = {}
    for folder in sorted((FOLDER / "tuning").iterdir()):
        results = storage.read_study(folder)[1]
        losses = [t["val_loss"] for result in results for t in result["trials"]]
        assert len(losses) == 10 and {t["seed"] for result in results for t in result["trials"]} == {9001, 9002}
        rate = results[0]["identity"]["config"]["learning_rate"]
        means[rate] = sum(losses) / len(losses)
    best = min(means, key=means.get)
    assert best == 1e-3 and "**Common rate: 1e-3.**" in text
    assert all(f"{mean:.4f}" in text for mean in means.values())
    pilot = storage.read_study(FOLDER / "pilot")[1]
    at_800 = [p["val_loss"] for r in pilot for t in r["trials"] for p in t["history"] if p["step"] == 800]
    assert len(at_800) == 5
    assert math.ceil(max(at_800) / 0.05) * 0.05 == pytest.approx(2.05) and "**common loss 2.05 nats**" in text
