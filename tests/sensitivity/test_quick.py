"""Claims about the quick test: planted models get the right answers, budgets are honoured, mistakes cost nothing."""

import json

import pytest
import studies
from simulated_truth import simulated_truth

from common.errors import UserError
from quick_sensitivity import check_options, parser
from sensitivity import cases, quick
from sensitivity.features import FEATURES

# Faint: the activation acts on a branch scaled to almost nothing. Deciding: only what an activation makes of an input and
# of its negative together goes on, at a scale at which smooth activations are straight lines: with ReLU it can learn.
PLANTED = """
import torch
from torch import nn
from architectures.registry import register_architecture
from sensitivity import quick, truth
quick.MOST_SEEDS = 3
truth.load = lambda *path: {}  # these tiny models are outside the validated range: their own trials answer
class Planted(nn.Module):
    def __init__(self, config, make_activation, vocabulary_size):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, config.n_embd)
        self.activation = make_activation()
        self.head = nn.Linear(config.n_embd, vocabulary_size, bias=False)
class Faint(Planted):
    def forward(self, tokens):
        x = self.embedding(tokens)
        return self.head(x + 1e-4 * self.activation(x))
class Deciding(Planted):
    def forward(self, tokens):
        x = 1e-3 * self.embedding(tokens)
        return self.head(1e3 * (self.activation(x) + self.activation(-x)))
register_architecture("faint", Faint)
register_architecture("deciding", Deciding)
"""
SIZES = "--config cpu --device cpu --n-layer 1 --n-head 2 --n-embd 16 --block-size 16 --batch-size 8 --max-iters 240"
OPTIONS = [
    *SIZES.split(),
    "--learning-rate",
    "1e-2",
    "--dropout",
    "0",
    "--curve-windows",
    "4",
    "--workers",
    "1",
    "--minutes",
    "60",
]


def ask(name, folder, corpus, *more):
    options = ["--architecture", name, *OPTIONS, "--corpus", str(corpus), "--json", f"{name}.json", *more]
    run = studies.run("quick_sensitivity.py", *options, folder=folder, prelude=PLANTED)
    assert run.status == 0, run.out + run.err
    return json.loads((folder / f"{name}.json").read_text()), run.out


def test_an_activation_on_a_faint_branch_does_not_matter(tmp_path, tiny_corpus_file):
    found, said = ask("faint", tmp_path, tiny_corpus_file)
    loss, pd = found["answers"]
    assert loss["verdict"] == "does not matter" and loss["probability"] < 0.01
    assert loss["basis"] == "direct comparison" and "no validated predictor" in loss["leaf"]
    assert pd["outcome"] == "pd" and "not at a fixed loss" in said
    assert len(found["quick"]["losses"]["relu"]) == 3
    before = (tmp_path / "results/quick_faint/faint_relu.json").read_bytes()
    again, said = ask("faint", tmp_path, tiny_corpus_file)  # it resumes: nothing is trained twice
    assert "0 trials to train" in said and again["answers"] == found["answers"]
    assert (tmp_path / "results/quick_faint/faint_relu.json").read_bytes() == before


def test_an_activation_that_decides_whether_training_works_matters(tmp_path, tiny_corpus_file):
    found, said = ask("deciding", tmp_path, tiny_corpus_file)
    loss = found["answers"][0]
    assert loss["verdict"] == "matters" and loss["probability"] > 0.99 and loss["difference"][1] > 0.02
    assert "final loss: in the quick trials the activation matters (by more than 0.02 nats)" in said
    assert "full comparison: python run_all_experiments.py --architectures deciding --activations relu gelu" in said
    assert "skipping the full comparison would save 12 trials" in said and "not validated" in said


def test_a_budget_gives_as_many_seeds_as_fit_and_says_the_least():
    assert quick.seeds_within(300, 0, 4, 10, 0.01, 2) == quick.MOST_SEEDS
    fits = quick.seeds_within(120, 20, 4, 10, 0.01, 2)
    assert quick.seconds_needed(fits, 4, 10, 0.01, 2) <= 100 < quick.seconds_needed(fits + 1, 4, 10, 0.01, 2)
    assert quick.more_seeds(100, 20, 4, 0.01) == 4 and quick.more_seeds(15, 20, 4, 0.01) == 0
    with pytest.raises(UserError, match=r"give --minutes 0\.\d or more"):
        quick.seeds_within(30, 0, 4, 10, 0.01, 2)
    assert quick.seeds_within(40, 0, 4, 10, 0.01, 2, finished=4) == 2, "finished trials cost nothing"


def test_a_budget_that_ends_too_early_keeps_what_was_trained(tmp_path, tiny_corpus_file):
    early = "import quick_sensitivity\nquick_sensitivity.OVERRUN = 0\nquick.seeds_within = lambda *a: 2\n"
    options = ["--architecture", "faint", *OPTIONS, "--max-iters", "600000", "--corpus", str(tiny_corpus_file)]
    run = studies.run("quick_sensitivity.py", *options, folder=tmp_path, prelude=PLANTED + early)
    assert run.status == 1 and "the budget ended before every activation had two seeds" in run.err
    assert list(tmp_path.glob("checkpoints/quick_faint/faint_relu/*.partial.pt"))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--activations relu", "one activation cannot be compared with itself"),
        ("--activations relu gelo", "did you mean 'gelu'"),
        ("--architecture charlmm", "did you mean 'charlm'"),
        ("--minutes 0", "--minutes must be positive"),
        ("--eval-interval 5", "have no effect"),
        ("--cost", "--architectures belongs to --cost; give it"),
        ("--hours-per-trial 2", "belongs to --cost; leave it out"),
        ("--dry-run", "belongs to --ground-truth"),
        ("--cost --guide", "give one of them"),
        ("--guide", "no ground truth yet"),
    ],
)
def test_a_mistake_is_one_sentence_before_any_training(options, says, tmp_path, tiny_corpus_file):
    run = studies.run(
        "quick_sensitivity.py", *options.split(), "--corpus", tiny_corpus_file, folder=tmp_path, prelude=NO_TRUTH
    )
    assert run.status == 2 and says in run.err and len(run.err.strip().splitlines()) == 1, run.err
    assert not list(tmp_path.glob("results/*"))


NO_TRUTH = "from pathlib import Path\nfrom sensitivity import truth\ntruth.FILE = Path('cases.json')\n"


def test_the_cost_of_five_architectures():
    options = "--cost --architectures 5 --activations 4 --trials 3 --hours-per-trial 1.5".split()
    check_options(args := parser().parse_args(options))
    hours = args.architectures * 4 * args.trials * args.hours_per_trial
    unknown = quick.cost_lines(hours, 2.5, {}, 1 / 6)
    assert unknown[0] == "full comparison: 90.0 h, 225.00 at 2.5 per hour" and "15.0 h" in unknown[1]
    assert "not known" in unknown[2] and "17%" in unknown[3]
    known = quick.cost_lines(hours, 2.5, simulated_truth(), 1 / 6)
    assert (
        known[2].startswith("expected saving:") and "[" in known[2] and "probability that a skip is wrong" in known[3]
    )


def quick_result(sd=None):
    losses = {a: [2.5 + 0.001 * k for k in range(3)] for a in cases.ACTIVATIONS}
    features = dict.fromkeys(FEATURES, 0.0) | {"early_sd": -3.5 if sd is None else sd}
    pd = {a: [[None, 0.2, 0.21], [0.2, None, 0.2], [0.21, 0.2, None]] for a in cases.ACTIVATIONS}
    return {"losses": losses, "features": features, "relative_pd_end": pd}


def test_with_a_ground_truth_the_predictor_answers_within_its_range_only():
    known = simulated_truth()
    inside = quick.Model("attention", 60_000, 600, "text")
    no, yes = (quick.answer("loss", quick_result(sd), inside, known) for sd in (-4.0, -0.5))
    assert no["basis"] != "direct comparison" and no["probability"] < 0.2 and no["verdict"] == "does not matter"
    assert yes["probability"] > 0.8 or no["basis"] == "train all briefly"
    for model, says in (
        (quick.Model("attention", 10**7, 600, "text"), "10,000,000 parameters, validated from"),
        (quick.Model("attention", 60_000, 5000, "text"), "5,000 training steps"),
        (quick.Model("attention", 60_000, 600, "vision"), "the task vision"),
        (quick.Model("attention", 60_000, 600, "text", ("relu", "mish")), "the activations relu, mish"),
    ):
        found = quick.answer("loss", quick_result(), model, known)
        assert found["verdict"] == "inconclusive" and says in found["leaf"]
    assert quick.validated_line(known).startswith(
        "validated on 30 cases: text, 30,000 to 117,000 parameters, 450 to 900"
    )
    low, high = no["interval"]
    wider = quick.answer("loss", quick_result(-4.0), quick.Model("other", 60_000, 600, "text"), known)["interval"]
    assert low <= no["probability"] <= high and wider[0] <= low and wider[1] >= high


def test_a_test_that_predicts_no_better_than_a_coin_decides_nothing():
    known = simulated_truth(signal=False)
    for sd in (-4.0, -0.5):
        found = quick.answer("loss", quick_result(sd), quick.Model("attention", 60_000, 600, "text"), known)
        assert found["verdict"] == "inconclusive" and "passed validation (log score" in found["leaf"]


def test_a_diverged_activation_matters_whatever_the_predictor_says():
    found = quick_result()
    found["losses"]["gelu"][0] = None
    one = quick.answer("loss", found, quick.Model("mlp", 1, 1, "text"), {})
    assert one["verdict"] == "matters" and "diverged" in one["leaf"]
    for values in found["losses"].values():
        values[0] = None
    assert "the recipe does not work" in quick.answer("loss", found, quick.Model("mlp", 1, 1, "text"), {})["leaf"]
