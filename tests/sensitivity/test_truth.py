"""Claims about the ground truth: the protocol is what the program does, its command resumes, and cases hold what they need."""

import math
import subprocess
from pathlib import Path

import numpy as np
import pytest
import studies

from common import json_files
from run_all_experiments import parser
from sensitivity import cases, truth
from sensitivity.features import FEATURES

ROOT = Path(__file__).resolve().parents[2]
PROTOCOL = (ROOT / "results/reference/sensitivity/protocol.md").read_text(encoding="utf-8")

# One case of 30 steps instead of 38 of hundreds; the rules and every command stay.
SMALL = """
from pathlib import Path
from sensitivity import cases, truth
import tasks.registry
cases.GROUPS = (cases.Group("tiny", 1, 8, 30, ("mlp",), n_head=2),)
cases.COMMON = cases.COMMON | {"block_size": 16, "batch_size": 4, "curve_windows": 4}
cases.RATES = (1e-3, 1e-2)
cases.TRIALS = {"tuning": 1, "quick": 2, "truth": 3}
truth.FILE = Path("cases.json")
cases.study_options = (lambda real: lambda *a, **k: [CORPUS if o == "shakespeare" else o for o in real(*a, **k)])(cases.study_options)
tasks.registry.load_task = (lambda real: lambda *a: real("text", CORPUS))(tasks.registry.load_task)
"""


def test_the_protocol_says_what_the_program_does():
    for group in cases.GROUPS:
        row = next(line for line in PROTOCOL.splitlines() if line.startswith(f"| {group.name} |"))
        assert [int(cell) for cell in row.split("|")[2:6]] == [group.n_layer, group.n_embd, group.n_head, group.steps]
    count = sum(len(group.architectures) for group in cases.GROUPS)
    assert f"## Cases: {count} " in PROTOCOL and count >= 30
    assert "of 1e-3, 2e-3, 4e-3, 8e-3" in PROTOCOL and cases.RATES == (1e-3, 2e-3, 4e-3, 8e-3)
    assert f"D > {cases.LOSS_MARGIN} nats" in PROTOCOL and f"below {truth.BIGRAM} nats" in PROTOCOL
    for kind, seeds in (("tuning", "seed 7001"), ("quick", "seeds 7101 to 7103"), ("truth", "seeds 8001 to 8004")):
        assert seeds in PROTOCOL and str(cases.SEED_BASES[kind] + cases.TRIALS[kind] - 1) in seeds
    assert {cases.family_of(a) for g in cases.GROUPS for a in g.architectures} == set(cases.FAMILIES)
    assert cases.family_of("my_model") == "other"


def test_every_study_is_one_that_can_be_run_on_seeds_of_its_own():
    used = {}
    for kind in cases.TRIALS:
        options = cases.study_options(cases.GROUPS[0], kind, Path("x"), {"charlm": 2e-3, "mlp": 1e-3}, 4e-3)
        args = parser().parse_args(options)
        assert args.learning_rate == ["charlm=0.002", "mlp=0.001"] and args.cooldown == 0.2
        used[kind] = set(range(args.seed_base, args.seed_base + args.trials))
        assert args.max_iters == {"tuning": 200, "quick": 100, "truth": 600}[kind]
    assert sum(map(len, used.values())) == len(set.union(*used.values()))


def test_the_rate_is_the_best_on_average_and_the_common_loss_is_the_worst_activations():
    losses = {
        1e-3: {"charlm": {"relu": 2.60, "gelu": 2.70}, "mlp": {"relu": None, "gelu": 1.0}},
        2e-3: {"charlm": {"relu": 2.45, "gelu": 2.88}, "mlp": {"relu": 3.0, "gelu": 3.05}},
    }
    assert cases.best_rates(losses) == {"charlm": (1e-3, pytest.approx(2.7)), "mlp": (2e-3, pytest.approx(3.05))}
    lost = {1e-3: {"charlm": {"relu": None, "gelu": None}}}
    assert cases.best_rates(lost)["charlm"][0] == 1e-3 and cases.best_rates(lost)["charlm"][1] == -math.inf


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_corpus_file):
    """The small ground truth: its folder, what made it small, and the run."""
    folder = tmp_path_factory.mktemp("truth")
    prelude = SMALL.replace("CORPUS", repr(str(tiny_corpus_file)))
    run = studies.run(
        "quick_sensitivity.py", "--ground-truth", "--workers", "1", folder=folder, prelude=prelude, seconds=400
    )
    return folder, prelude, run


def test_one_command_trains_tunes_and_writes_the_cases(made):
    folder, _, run = made
    assert run.status == 0, run.out + run.err
    known = truth.load(folder / "cases.json")
    assert list(known) == ["tiny/mlp"]
    case = known["tiny/mlp"]
    assert set(case["quick"]["features"]) == set(FEATURES)
    assert all(value is not None for name, value in case["quick"]["features"].items() if "noise" not in name)
    assert list(case["truth"]["losses"]) == list(cases.ACTIVATIONS)
    assert all(len(values) == 3 for values in case["truth"]["losses"].values())
    assert case["learning_rate"] in (1e-3, 1e-2) and set(case["tuning"]) == {"0.001", "0.01"}
    assert 0 <= truth.label(case, "loss") <= 1 and 0 <= truth.briefly(case, "pd") <= 1
    assert not np.isnan(truth.feature_row(case["quick"]["features"])[0])
    assert (folder / "cases.json").stat().st_size < 40_000


def test_the_same_command_again_trains_nothing(made):
    folder, prelude, _ = made
    before = json_files.read_json(folder / "cases.json")["cases"]
    again = studies.run(
        "quick_sensitivity.py", "--ground-truth", "--workers", "1", folder=folder, prelude=prelude, seconds=400
    )
    assert again.status == 0 and "trials to train" not in again.out
    (folder / "cases.json").unlink()
    (folder / "results/sensitivity/cases.json").unlink()
    rebuilt = studies.run(
        "quick_sensitivity.py", "--ground-truth", "--workers", "1", folder=folder, prelude=prelude, seconds=400
    )
    assert rebuilt.status == 0 and rebuilt.out.count("0 trials to train") == 4
    assert json_files.first_difference(before, truth.load(folder / "cases.json")) is None


def test_every_shipped_case_was_made_under_the_protocol_as_it_is():
    """Promise 8: each commit that trained a label is clean and holds the protocol unchanged."""
    known = truth.load()
    if not known:
        pytest.skip("no ground truth is shipped yet")
    path = "results/reference/sensitivity/protocol.md"
    for commit in {e["git_commit"] for case in known.values() for e in case["environments"]}:
        assert commit is not None and "+changes" not in commit
        shown = subprocess.run(["git", "-C", str(ROOT), "show", f"{commit}:{path}"], capture_output=True, text=True)
        assert shown.stdout == PROTOCOL, commit
