"""Claims about control: PPO's formulas by hand, environments as functions, trials that resume, policies that improve."""

import json

import numpy as np
import pytest
import studies
import torch
from grids import grid

import train
from analysis.results import Cell, Margins
from architectures.checks import check
from architectures.registry import architectures_of, build_model
from config_cpu import ConfigCPU
from report.score import score
from report.view import View
from tasks import control, environments, ppo
from tasks.registry import load_recorded, load_task
from training.step import build
from training.trial import Interrupted, Trial, stream_seeds

gymnasium = pytest.importorskip("gymnasium", reason="gymnasium is not installed (requirements-tasks.txt)")
NAMES = architectures_of("control")


@pytest.fixture(scope="module")
def tasks():
    return {name: load_task("control", name) for name in control.ENVIRONMENTS}


@pytest.fixture
def short(monkeypatch):
    """Short rollouts, few episodes of evaluation."""
    monkeypatch.setattr(control, "ROLLOUT", 12)
    monkeypatch.setattr(control, "N_EPISODES", 3)


def a_trial(architecture="policy_mlp", number=1, **changes):
    sizes = {"n_layer": 1, "n_head": 1, "n_embd": 8, "max_iters": 4, "eval_interval": 2, "batch_size": 32}
    sizes |= {"learning_rate": 0.01, "curve_windows": 20, "dropout": 0.0, **changes}
    seeds = stream_seeds(42, number, ("init", "data", "dropout"))
    return Trial(architecture, "swish", ConfigCPU(**sizes), number, 41 + number, seeds)


# --- PPO ----------------------------------------------------------------------------------------------------------------


def test_advantages_are_discounted_sums_of_temporal_differences_within_an_episode():
    """A_t = sum_l (gamma lambda)^l delta_(t + l) up to the end of the episode (1506.02438, equation 16), one by one."""
    rng = np.random.default_rng(0)
    rewards, values, after = (torch.from_numpy(rng.standard_normal((7, 2))) for _ in range(3))
    ended = torch.tensor([[0, 0], [0, 1], [1, 0], [0, 0], [0, 1], [1, 0], [0, 0]], dtype=torch.bool)
    terminated = ended & torch.tensor([[True, False]])  # in the second environment, episodes end at the limit
    found = ppo.advantages(rewards, values, after, terminated, ended)
    for t in range(7):
        for n in range(2):
            expected, k = 0.0, t
            while True:
                future = 0 if terminated[k, n] else ppo.DISCOUNT * after[k, n]
                expected += (ppo.DISCOUNT * ppo.TRACE) ** (k - t) * (rewards[k, n] + future - values[k, n])
                if ended[k, n] or k == 6:
                    break
                k += 1
            assert found[t, n] == pytest.approx(float(expected))


def test_the_loss_is_the_negative_of_the_clipped_objective():
    """Two samples whose advantages standardize to +-1/sqrt(2), computed by hand; the ratios are 1.5 and 0.5."""
    old = torch.tensor([0.4, 0.6]).log()
    log_p = torch.tensor([[0.6, 0.4], [0.7, 0.3]]).log().requires_grad_()
    values = torch.tensor([1.0, 2.0])
    found = ppo.loss(log_p, values, torch.tensor([0, 1]), old, torch.tensor([3.0, 1.0]), torch.tensor([2.0, 5.0]))
    high = 2**-0.5
    objective = ((1 + ppo.CLIP) * high - (1 - ppo.CLIP) * high) / 2  # both clipped
    entropy = -(0.6 * np.log(0.6) + 0.4 * np.log(0.4) + 0.7 * np.log(0.7) + 0.3 * np.log(0.3)) / 2
    assert found.item() == pytest.approx(-objective + ppo.VALUE_WEIGHT * 5 - ppo.ENTROPY_WEIGHT * entropy, rel=1e-5)
    without_entropy = found + ppo.ENTROPY_WEIGHT * -(log_p.exp() * log_p).sum(1).mean()
    (gradient,) = torch.autograd.grad(without_entropy, log_p)
    assert gradient.abs().max() < 1e-7  # beyond the clip, nothing pulls the policy further


def test_actions_are_drawn_with_their_probabilities():
    log_p = torch.tensor([0.1, 0.6, 0.3]).log().expand(20_000, 3)
    counts = np.bincount(control.draw(log_p, np.random.default_rng(0)), minlength=3)
    np.testing.assert_allclose(counts / 20_000, [0.1, 0.6, 0.3], atol=0.015)


# --- environments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", control.ENVIRONMENTS)
def test_interleaved_episodes_are_those_of_gymnasium(name):
    """Three episodes at once through one environment, against gymnasium's own, one after the other, past their ends."""
    rng = np.random.default_rng(0)
    running = [environments.begin(name, seed) for seed in range(3)]
    played = [[] for _ in running]
    for _ in range(60):
        action = int(rng.integers(2))
        for k, (state, _) in enumerate(running):
            state, observation, reward, terminated = environments.act(name, state, action)
            played[k].append((action, observation, reward, terminated))
            running[k] = state, observation
    for seed, steps in enumerate(played):
        env = gymnasium.make(name)
        env.reset(seed=seed)
        for action, observation, reward, terminated in steps:
            expected, expected_reward, ends, _, _ = env.step(action)
            np.testing.assert_array_equal(observation, expected)
            assert (reward, terminated) == (expected_reward, ends)
            if ends:
                break


@pytest.mark.parametrize("name", control.ENVIRONMENTS)
def test_the_reference_controller_solves_the_task(name):
    returns = []
    for seed in range(5):
        state, observation = environments.begin(name, seed)
        total = 0.0
        for _ in range(environments.longest(name)):
            state, observation, reward, terminated = environments.act(
                name, state, environments.reference_action(name, observation)
            )
            total += reward
            if terminated:
                break
        returns.append(total)
    assert np.mean(returns) >= gymnasium.spec(name).reward_threshold


# --- the task -----------------------------------------------------------------------------------------------------------


def test_every_policy_is_evaluated_on_the_same_fixed_states(tasks, short):
    task = tasks["CartPole-v1"]
    assert load_recorded({"task": json.loads(json.dumps(task.facts()))}).sha256 == task.sha256
    assert len(np.unique(task.observations, axis=0)) == len(task.observations) == environments.N_STATES
    assert set(task.actions.flatten()) == {0, 1}
    outcomes = [train.run_trial(a_trial(number=number), task) for number in (1, 2)]
    x = torch.from_numpy(task.observations)
    for outcome in outcomes:
        model = build_model("policy_mlp", "swish", a_trial().config, task.model_sizes)
        model.load_state_dict(outcome["weights"])
        expected = model(x).log_softmax(-1).detach().numpy()
        np.testing.assert_allclose(outcome["log_probabilities"], expected, atol=1e-5)
        assert outcome["record"]["train_loss"] == outcome["record"]["val_loss"]
    assert outcomes[0]["record"]["weights_sha256"] != outcomes[1]["record"]["weights_sha256"]


@pytest.mark.parametrize(("name", "architecture"), [("CartPole-v1", "policy_mlp"), ("Acrobot-v1", "policy_mlp_wide")])
@pytest.mark.parametrize("steps", [1, 3])
def test_an_interrupted_trial_continues_its_episodes_and_ends_with_the_same_bits(
    name, architecture, steps, tasks, short, tmp_path
):
    trial, partial = a_trial(architecture), tmp_path / "trial_1.partial.pt"
    expected = train.run_trial(trial, tasks[name])
    assert expected["record"]["score"]["name"] == "mean return"
    with pytest.raises(Interrupted):
        train.run_trial(trial, tasks[name], partial, should_stop=studies.stop_after(steps))
    torch.manual_seed(steps)
    studies.assert_same(train.run_trial(trial, tasks[name], partial), expected)


def test_a_study_with_an_activation_of_ones_own_is_estimated_trained_and_verified(tmp_path):
    (tmp_path / "soft.py").write_text("import torch\n\n\ndef soft(x):\n    return x * torch.sigmoid(4 * x)\n")
    study = ("run_all_experiments.py", "--task", "control", "--config", "cpu", "--vary", "data", "--trials", "2")
    study += ("--workers", "1", "--max-iters", "1", "--n-embd", "8", "--activation-file", "soft.py")
    estimated = studies.run(*study, "--dry-run", folder=tmp_path)
    assert estimated.status == 0 and "2 trials, 2 of them to train: about" in estimated.out, (
        estimated.out + estimated.err
    )
    done = studies.run(*study, folder=tmp_path)
    assert done.status == 0 and "mean return" in done.out, done.out + done.err
    result = "results/control_vary_data/policy_mlp_soft.json"
    verify = ("train.py", "--verify", result, "--trial", "2", "--activation-file", "soft.py")
    verified = studies.run(*verify, folder=tmp_path)
    assert verified.status == 0 and "identical: weights_sha256" in verified.out, verified.out + verified.err


def test_an_episode_ends_at_the_limit_and_the_next_one_begins(tasks, monkeypatch):
    task = tasks["CartPole-v1"]
    monkeypatch.setattr(control, "longest", lambda name: 5)
    generator, lengths = np.random.default_rng(0), []
    state = task._begin_all(generator)
    for _ in range(7):
        state, after, _, terminated, ended = task._act_all(state, np.array([0, 1] * 4), generator)
        lengths.append(state["lengths"].tolist())
        assert not terminated.any()
        assert (ended == (lengths[-1][0] == 0)).all()
        assert torch.equal(after, state["observations"]) != bool(ended[0])
    assert [row[0] for row in lengths] == [1, 2, 3, 4, 0, 1, 2]


def test_a_policy_improves(tasks, monkeypatch):
    monkeypatch.setattr(control, "N_EPISODES", 10)
    sizes = {"n_layer": 2, "n_embd": 32, "batch_size": 128, "learning_rate": 3e-3}
    task, trial = tasks["CartPole-v1"], a_trial(number=2, max_iters=12, eval_interval=12, **sizes)
    before = task.score(build(trial, task.model_sizes), trial.config)["value"]
    after = train.run_trial(trial, task)["record"]["score"]["value"]
    assert after > 200 > 100 > before


def test_the_score_is_printed_beside_disagreement_with_what_the_loss_means(tasks):
    def cell(activation, returns):
        trials = [
            {"trial": k, "status": "complete", "score": {"name": "mean return", "value": r, "higher_is_better": True}}
            for k, r in enumerate(returns, 1)
        ]
        facts = {"architecture": "policy_mlp", "activation": activation, "task": tasks["CartPole-v1"].facts()}
        return Cell({**facts, "trials": trials, "pairs": []})

    cells = [cell("relu", (400.0, 410, 420)), cell("gelu", (500.0, 509, 521))]
    section = score(View(None, cells, Margins()))
    note, verdict, table = section.content
    assert "not how good it is" in note
    assert verdict == "Does the choice of activation matter? Mean return: **sensitive**."
    assert table.rows[0][:3] == ["ReLU", "3", "410.00 [385.16, 434.84]"]
    assert table.rows[1][-2].startswith("+100.00 [") and table.rows[1][-1].startswith("different")
    losing = [cell("relu", (-400.0, -410, -420)), cell("gelu", (-80.0, -90, -85))]  # as in Acrobot
    assert score(View(None, losing, Margins())).content[-1].rows[0][2] == "-410.00 [-434.84, -385.16]"
    assert score(View(None, [Cell({"trials": [{"trial": 1, "status": "complete"}], "pairs": []})], Margins())) is None


# --- architectures ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("architecture", "activation"), grid("control", "policy_mlp"))
def test_a_policy_with_an_activation_passes_every_check(architecture, activation, tasks):
    """The activation acts; it learns everywhere, starts ignorant, can overfit; it is stored and it repeats."""
    assert check(architecture, activation, ConfigCPU(n_layer=1), tasks["CartPole-v1"]) == []


def test_the_wide_policy_is_four_times_as_wide():
    plain, wide = (build_model(name, "relu", a_trial().config, (4, 2)).policy[0].out_features for name in NAMES)
    assert (plain, wide) == (8, 32)
