"""Claims about the published protocol: its draws are the report's, and they repeat, resume and extend."""

import io
import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import activations
from common.errors import UserError
from config_cpu import ConfigCPU
from model import CharLM
from tasks.corpus import make_corpus
from training import published_protocol

SMALL = ConfigCPU(n_layer=2, n_head=2, n_embd=16, block_size=8, batch_size=4)
TINY = SMALL.replace(max_iters=6, eval_interval=3, eval_iters=2)
N_CONTEXTS = 50  # instead of 1,000, where they go through a model one at a time
TIMES = ("training_time_s", "evaluation_time_s")


@pytest.fixture(scope="module")
def corpus():
    """3,000 characters with some structure, the same everywhere: Lehmer's generator picks words."""
    words = ["the ", "king ", "fool ", "sees ", "a ", "queen ", "and ", "not.\n"]
    state, text = 1, ""
    while len(text) < 3000:
        state = state * 48271 % (2**31 - 1)
        text += words[state % len(words)]
    return make_corpus("tiny", text[:3000])


def test_the_fields_it_knows_are_those_that_it_reads():
    """Whatever else a configuration has is refused under this protocol (tests/test_run_all_experiments.py)."""
    sources = [Path(module.__file__).read_text() for module in (published_protocol, sys.modules[CharLM.__module__])]
    read = {name for source in sources for name in re.findall(r"config\.(\w+)", source)}
    assert read & ConfigCPU().as_dict().keys() == {*published_protocol.FIELDS, "dtype"}


def train(corpus, trial=0, config=TINY, activation="relu", **options):
    return published_protocol.train_published_trial(
        activation, trial, 42 + trial, config, corpus, **{"one_by_one": False, **options}
    )


def compare(outcomes, corpus, config=TINY, models=None, one_by_one=False):
    models = models or [rebuilt(outcome, corpus, config) for outcome in outcomes]
    state = outcomes[-1]["generator_state"]
    return published_protocol.compare_published(models, state, config, corpus, one_by_one)


def rebuilt(outcome, corpus, config=TINY, activation=nn.ReLU):
    model = CharLM(config, activation, corpus.vocabulary_size)
    model.load_state_dict(outcome["model"])
    return model


def assert_same(found, expected):
    """Two outcomes are equal to the last bit, but for the times."""
    assert found.keys() == expected.keys()
    for name in found.keys() - {*TIMES, "model", "generator_state"}:
        assert found[name] == expected[name], name
    assert torch.equal(found["generator_state"], expected["generator_state"])
    assert same_weights(found, expected)


def same_weights(one, other):
    assert one["model"].keys() == other["model"].keys()
    return all(torch.equal(one["model"][name], other["model"][name]) for name in one["model"])


# --- the same protocol, written a second time from its specification, naively -------------------------------


class NaiveAttention(nn.Module):
    """Attention head by head, but for the dropout, which draws once for all heads."""

    def __init__(self, width, n_head, p):
        super().__init__()
        self.k = nn.Linear(width, width)
        self.q = nn.Linear(width, width)
        self.v = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.n_head, self.drop_weights, self.drop_out = n_head, nn.Dropout(p), nn.Dropout(p)

    def forward(self, x):
        length, width = x.shape[1:]
        size = width // self.n_head
        all_scores = []
        for head in range(self.n_head):
            own = slice(head * size, (head + 1) * size)
            scores = torch.einsum("bqd,bkd->bqk", self.q(x)[..., own], self.k(x)[..., own]) * size**-0.5
            visible = torch.tril(torch.ones(length, length)) == 1
            all_scores.append(torch.where(visible, scores, float("-inf")))
        weights = self.drop_weights(torch.softmax(torch.stack(all_scores, dim=1), dim=3))
        heads = [
            torch.einsum("bqk,bkd->bqd", weights[:, head], self.v(x)[..., head * size : (head + 1) * size])
            for head in range(self.n_head)
        ]
        return self.drop_out(self.out(torch.cat(heads, dim=2)))


class NaiveBlock(nn.Module):
    def __init__(self, width, n_head, p):
        super().__init__()
        self.n1 = nn.LayerNorm(width)
        self.attend = NaiveAttention(width, n_head, p)
        self.n2 = nn.LayerNorm(width)
        expand, contract = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.mlp = nn.Sequential(expand, nn.ReLU(), contract, nn.Dropout(p))

    def forward(self, x):
        x = x + self.attend(self.n1(x))
        return x + self.mlp(self.n2(x))


class NaiveCharLM(nn.Module):
    def __init__(self, c, vocabulary_size):
        super().__init__()
        self.tokens = nn.Embedding(vocabulary_size, c.n_embd)
        self.positions = nn.Embedding(c.block_size, c.n_embd)
        self.blocks = nn.Sequential(*[NaiveBlock(c.n_embd, c.n_head, c.dropout) for _ in range(c.n_layer)])
        self.final = nn.LayerNorm(c.n_embd)
        self.head = nn.Linear(c.n_embd, vocabulary_size, bias=False)
        self.apply(self.initialise)

    def initialise(self, module):
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, 0.0, 0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def forward(self, x):
        x = self.tokens(x) + self.positions(torch.arange(x.shape[1]))
        return self.head(self.final(self.blocks(x)))


def naive_batch(data, c, count):
    offsets = torch.randint(len(data) - c.block_size, (count,))
    x = torch.stack([data[i : i + c.block_size] for i in offsets])
    y = torch.stack([data[i + 1 : i + c.block_size + 1] for i in offsets])
    return x, y


def naive_loss(model, x, y):
    logits = model(x)
    return nn.functional.cross_entropy(logits.view(-1, logits.shape[-1]), y.view(-1))


@torch.no_grad()
def naive_estimate(model, splits, c):
    model.eval()
    means = []
    for data in splits:
        losses = torch.zeros(c.eval_iters)
        for k in range(c.eval_iters):
            losses[k] = naive_loss(model, *naive_batch(data, c, c.batch_size)).item()
        means.append(losses.mean().item())
    model.train()
    return means


@torch.no_grad()
def naive_last(model, data, c):
    """The softmax at the last position, and the true next character, of contexts drawn one by one."""
    model.eval()
    probabilities, targets = [], []
    for _ in range(N_CONTEXTS):
        x, y = naive_batch(data, c, 1)
        probabilities.append(torch.softmax(model(x)[0, -1], dim=0))
        targets.append(y[0, -1])
    return torch.stack(probabilities), torch.stack(targets)


def naive_trial(seed, splits, c, vocabulary_size):
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    model = NaiveCharLM(c, vocabulary_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=c.learning_rate)
    history = []
    for step in range(c.max_iters):
        if step % c.eval_interval == 0 or step == c.max_iters - 1:
            history.append([step, *naive_estimate(model, splits, c)])
        loss = naive_loss(model, *naive_batch(splits[0], c, c.batch_size))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    losses = naive_estimate(model, splits, c)
    accuracies = []
    for data in splits:
        p, y = naive_last(model, data, c)
        accuracies.append(100 * (p.argmax(1) == y).sum().item() / N_CONTEXTS)
    return model, history, losses, accuracies


@pytest.fixture(scope="module")
def three(corpus):
    """Three trials, trained one after the other."""
    return [train(corpus, trial) for trial in range(3)]


def test_every_draw_is_that_of_a_naive_transcript_of_the_specification(corpus, monkeypatch):
    """8 steps, so that the loop's last estimate is not at a multiple of 3."""
    monkeypatch.setattr(published_protocol, "N_CONTEXTS", N_CONTEXTS)
    config = TINY.replace(max_iters=8)
    splits = [torch.tensor(split.astype(int)) for split in (corpus.train, corpus.validation)]
    ours = [train(corpus, trial, config, one_by_one=True) for trial in range(3)]
    with torch.random.fork_rng(devices=[]):
        models = []
        for outcome in ours:
            seed, v = outcome["seed"], corpus.vocabulary_size
            model, history, losses, accuracies = naive_trial(seed, splits, config, v)
            models.append(model)
            assert torch.equal(torch.get_rng_state(), outcome["generator_state"])
            assert [point["step"] for point in outcome["history"]] == [0, 3, 6, 7]
            found = [[p["step"], p["train_loss"], p["val_loss"]] for p in outcome["history"]]
            np.testing.assert_allclose(found, history, atol=1e-6)
            np.testing.assert_allclose([outcome["train_loss"], outcome["val_loss"]], losses, atol=1e-6)
            found = [100 * outcome["train_accuracy"], 100 * outcome["val_accuracy"]]
            np.testing.assert_allclose(found, accuracies, atol=1e-9)
        expected = []
        for i, j in [(0, 1), (0, 2), (1, 2)]:
            p, q = (naive_last(models[k], splits[1], config)[0] for k in (i, j))
            pd = ((p - q).abs().mean() / (p.mean() + q.mean())).item()
            expected.append([i + 1, j + 1, pd, (p.argmax(1) != q.argmax(1)).sum().item(), N_CONTEXTS])
    found = [list(pair.values()) for pair in compare(ours, corpus, config, one_by_one=True)]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_short_published_run_gives_the_stored_values(corpus):
    """Losses to 1e-4, since sums differ between machines; figures of 1,000 contexts to two of them."""
    config = TINY.replace(max_iters=30, eval_interval=20, learning_rate=0.01)
    trials = [train(corpus, trial, config, "gelu") for trial in range(2)]
    models = [rebuilt(trial, corpus, config, nn.GELU) for trial in trials]
    (pair,) = compare(trials, corpus, config, models)
    stored = [(1.404367, 1.410684, 0.540, 0.497), (1.484551, 1.482079, 0.486, 0.524)]
    for trial, (train_loss, val_loss, train_accuracy, val_accuracy) in zip(trials, stored):
        assert trial["train_loss"] == pytest.approx(train_loss, abs=1e-4)
        assert trial["val_loss"] == pytest.approx(val_loss, abs=1e-4)
        assert trial["train_accuracy"] == pytest.approx(train_accuracy, abs=0.0021)
        assert trial["val_accuracy"] == pytest.approx(val_accuracy, abs=0.0021)
    found = [list(point.values()) for trial in trials for point in trial["history"]]
    stored = [[0, 2.887223, 2.882206], [20, 1.886722, 1.765334], [29, 1.415885, 1.537938]]
    stored += [[0, 2.895367, 2.909477], [20, 1.960360, 1.896984], [29, 1.704603, 1.712692]]
    np.testing.assert_allclose(found, stored, atol=1e-4)
    assert pair["relative_pd"] == pytest.approx(0.627780, abs=1e-4)
    assert pair["prediction_differences"] == pytest.approx(848, abs=2)


def test_a_trial_and_a_comparison_repeat_to_the_last_bit(three, corpus):
    assert_same(train(corpus), three[0])
    assert compare(three, corpus) == compare(three, corpus)


def test_one_context_at_a_time_or_many_are_the_same_contexts(corpus, monkeypatch):
    monkeypatch.setattr(published_protocol, "CONTEXTS_AT_ONCE", 16)
    monkeypatch.setattr(published_protocol, "N_CONTEXTS", N_CONTEXTS)
    trials = [train(corpus, trial) for trial in range(2)]
    one_by_one = train(corpus, one_by_one=True)
    assert same_weights(one_by_one, trials[0])
    assert torch.equal(one_by_one["generator_state"], trials[0]["generator_state"])
    assert one_by_one["val_accuracy"] == pytest.approx(trials[0]["val_accuracy"], abs=0.021)
    (single,), (many,) = (compare(trials, corpus, one_by_one=choice) for choice in (True, False))
    assert single["relative_pd"] == pytest.approx(many["relative_pd"], abs=1e-6)
    assert abs(single["prediction_differences"] - many["prediction_differences"]) <= 1


def test_the_callers_generators_neither_matter_nor_change(three, corpus):
    pairs = compare(three, corpus)
    models = [rebuilt(outcome, corpus) for outcome in three]
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    state, numpy_state = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    assert_same(train(corpus), three[0])
    assert compare(three, corpus, models=models) == pairs
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state[1])  # noqa: NPY002


def test_a_trial_runs_with_its_own_number_of_threads(corpus, monkeypatch):
    monkeypatch.setattr(published_protocol, "N_CONTEXTS", 1)
    seen = []
    config = TINY.replace(max_iters=1, eval_iters=1, threads_per_trial=2)
    train(corpus, config=config, report=lambda *state: seen.append(torch.get_num_threads()))
    assert seen == [2]
    assert torch.get_num_threads() == 1


def test_the_callers_generator_is_restored_after_an_interruption(corpus):
    state = torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt):
        train(corpus, report=interrupt_after(2))
    assert torch.equal(torch.get_rng_state(), state)


def interrupt_after(last, kept=None):
    def report(step, loss, snapshot):
        assert math.isfinite(loss)
        if step == last:
            if kept is not None:
                torch.save(snapshot(), kept)
            raise KeyboardInterrupt

    return report


@pytest.mark.parametrize("step", [1, 3, TINY.max_iters])
def test_a_killed_trial_resumes_to_the_same_bits(step, three, corpus):
    """The snapshot goes through a file that is read without running code from it."""
    file = io.BytesIO()
    with pytest.raises(KeyboardInterrupt):
        train(corpus, report=interrupt_after(step, file))
    file.seek(0)
    snapshot = torch.load(file, weights_only=True)
    assert snapshot["step"] == step
    for _ in range(2):  # a snapshot outlives its use
        resumed = train(corpus, start_state=snapshot)
        assert_same(resumed, three[0])
    assert resumed["training_time_s"] > snapshot["training_time_s"]


def test_a_snapshot_is_not_changed_by_the_training_that_goes_on(three, corpus):
    snapshots = []
    watched = train(corpus, report=lambda step, loss, snapshot: snapshots.append(snapshot()))
    assert_same(watched, three[0])
    assert [snapshot["step"] for snapshot in snapshots] == [1, 2, 3, 4, 5, 6]
    assert_same(train(corpus, start_state=snapshots[1]), three[0])


def test_extending_two_trials_to_three_gives_what_three_at_once_give(three, corpus):
    two = [train(corpus, trial) for trial in range(2)]
    compare(two, corpus)
    extended = [*two, train(corpus, 2)]
    for one, other in zip(extended, three):
        assert_same(one, other)
    assert compare(extended, corpus) == compare(three, corpus)
    pairs = [(pair["trial_a"], pair["trial_b"]) for pair in compare(three, corpus)]
    assert pairs == [(1, 2), (1, 3), (2, 3)]


def test_evaluating_more_often_trains_another_model(three, corpus):
    """Flaw 6 of the protocol; what stays the same is where the initial weights come from."""
    for change in ({"eval_interval": 2}, {"eval_iters": 3}):
        other = train(corpus, config=TINY.replace(**change))
        assert not same_weights(other, three[0])
    assert same_weights(train(corpus, config=TINY.replace(curve_windows=7)), three[0])


@pytest.mark.parametrize(
    ("n", "config"),
    [(429_824, ConfigCPU()), (10_795_776, ConfigCPU(n_layer=6, n_head=6, n_embd=384, block_size=256))],
)
def test_the_model_has_the_reports_number_of_parameters(n, config):
    model = published_protocol.build_published_model("relu", config, 65)
    assert sum(parameter.numel() for parameter in model.parameters()) == n


def test_a_trial_that_diverges_runs_to_its_end_and_has_no_figures(three, corpus):
    wild = train(corpus, config=TINY.replace(learning_rate=1e30))
    assert wild["status"] == "diverged"
    figures = ("train_loss", "val_loss", "train_accuracy", "val_accuracy")
    assert [wild[name] for name in figures] == [None] * 4
    assert wild["history"][-1] == {"step": 5, "train_loss": None, "val_loss": None}
    assert torch.equal(wild["generator_state"], three[0]["generator_state"])  # it drew all that it would have


def test_a_model_that_diverged_leaves_the_other_pairs_as_they_are(three, corpus):
    models = [rebuilt(outcome, corpus) for outcome in three]
    whole = compare(three, corpus, models=models)
    without = compare(three, corpus, models=[models[0], None, models[2]])
    assert without[1] == whole[1]
    assert without[0] == {**whole[0], "relative_pd": None, "prediction_differences": None}


def test_every_activation_trains_and_none_stands_for_another(corpus, monkeypatch):
    """Gated and learnable ones included: no two of them give the same loss."""
    monkeypatch.setattr(published_protocol, "N_CONTEXTS", N_CONTEXTS)
    config = TINY.replace(max_iters=3, eval_iters=1, learning_rate=0.1)
    trials = {name: train(corpus, config=config, activation=name) for name in activations.BUILT_IN}
    assert {trial["status"] for trial in trials.values()} == {"complete"}
    assert len({trial["val_loss"] for trial in trials.values()}) == len(trials)
    assert_same(train(corpus, config=config, activation="silu"), trials["swish"])  # two names of one


@pytest.mark.parametrize(
    ("change", "seed", "complaint"),
    [
        ({"dtype": "bfloat16"}, 42, "float32"),
        ({"block_size": 300}, 42, "block_size 300"),
        ({}, -1, "seeds are from 0 to 4294967295"),
        ({}, 2**32, "seeds are from 0 to 4294967295"),
    ],
)
def test_what_the_protocol_cannot_do_is_refused_before_any_work(change, seed, complaint, corpus):
    with pytest.raises(UserError, match=complaint):
        published_protocol.train_published_trial("relu", 0, seed, TINY.replace(**change), corpus)


def test_an_unknown_activation_is_refused_by_name(corpus):
    with pytest.raises(UserError, match="gelo"):
        train(corpus, activation="gelo")
