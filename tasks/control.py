"""Control: balancing a pole (CartPole-v1) or swinging up a double pendulum (Acrobot-v1) of gymnasium, learned by PPO.

One training step plays ROLLOUT steps in N_ENVIRONMENTS copies of the environment and makes EPOCHS passes over them in
batches of batch_size. An environment is used as a function of its state, so that the states of running episodes are all
that is saved. All draws (start states, actions, order of the batches) come from the step's generator.

All policies are evaluated on the same fixed states, never on their own trajectories: states visited by a reference
controller that acts at random one time in five. Loss and accuracy are measured against that controller's actions: how
much a policy acts like it, not how good it is. The latter is the score, the mean return over fixed episodes.
"""

import functools
from typing import ClassVar

import numpy as np
import torch

from tasks import ppo
from tasks.arrays import digest
from tasks.base import Task, autocast, device_of, log_probabilities
from tasks.environments import N_STATES, act, begin, environment, fixed_states, longest

ENVIRONMENTS = ("CartPole-v1", "Acrobot-v1")
N_ENVIRONMENTS = 8
ROLLOUT = 128
EPOCHS = 4
N_EPISODES = 100  # of the score

NOTE = (
    "Loss and accuracy are measured against the actions of a fixed reference controller: they say how much a policy acts"
    " like it, not how good it is. The mean return says that."
)


class Control(Task):
    """An environment, by its name."""

    name = "control"
    unused = ("n_head", "block_size", "dropout")
    data_sets: ClassVar = {label: functools.partial(fixed_states, label) for label in ENVIRONMENTS}

    @classmethod
    def load(cls, data):
        label = cls.data_set(data)
        return cls(label, *cls.data_sets[label]())

    @classmethod
    def defaults(cls, data):
        small = {"n_layer": 2, "n_head": 1, "n_embd": 64, "dropout": 0.0, "weight_decay": 0.0, "batch_size": 256}
        curves = {"max_iters": 100, "eval_interval": 10, "curve_windows": N_STATES}
        return small | curves | {"learning_rate": 1e-3, "cooldown": 1.0}

    def __init__(self, label: str, observations: np.ndarray, actions: np.ndarray):
        self.label, self.observations, self.actions = label, observations, actions[:, None]
        self.n_classes = int(environment(label).action_space.n)
        self.model_sizes = (observations.shape[1], self.n_classes)
        self.sha256 = digest(observations, actions)

    def facts(self):
        counts = {"n_environments": N_ENVIRONMENTS, "rollout": ROLLOUT, "epochs": EPOCHS, "n_episodes": N_EPISODES}
        weights = {name.lower(): getattr(ppo, name) for name in ppo.CONSTANTS}
        return super().facts() | {"n_states": N_STATES, **counts, **weights, "note": NOTE}

    def targets(self, split, config):
        return self.actions

    def log_probabilities(self, model, split, config, chosen=None):
        observations = self.observations if chosen is None else self.observations[chosen]
        yield from log_probabilities(model, torch.from_numpy(observations).to(device_of(model)), config)

    def example_batch(self, config):
        chosen = np.arange(config.batch_size) * N_STATES // config.batch_size
        return torch.from_numpy(self.observations[chosen]), torch.from_numpy(self.actions[chosen])

    def example_loss(self, model, x, y):
        return super().example_loss(model, x, y) + model.value(x).square().mean()

    def training_step(self, learner, generator, config):
        played = self._play(learner, generator, config)
        n = len(played["actions"])
        for _ in range(EPOCHS):
            for batch in torch.from_numpy(generator.permutation(n)).split(config.batch_size):
                part = {name: values[batch] for name, values in played.items()}
                observations = part.pop("observations")
                log_p = self._log_p(learner.model, observations, config)
                loss = ppo.loss(log_p, self._values(learner.model, observations, config), **part)
                learner.minimize(loss)
        return loss.detach()

    @torch.no_grad()
    def _play(self, learner, generator, config) -> dict:
        """ROLLOUT steps in all environments: tensors of ROLLOUT N_ENVIRONMENTS rows, as `ppo.loss` takes them."""
        model, state = learner.model, learner.task_state or self._begin_all(generator)
        device, seen = device_of(model), []
        for _ in range(ROLLOUT):
            before = state["observations"].to(device)
            log_p = self._log_p(model, before, config)
            actions = draw(log_p.cpu(), generator)
            state, *outcome = self._act_all(state, actions.numpy(), generator)
            actions = actions.to(device)
            seen.append((before, actions, log_p.gather(1, actions[:, None])[:, 0], *outcome))
        learner.task_state = state
        observations, actions, log_p, after, rewards, terminated, ended = (
            torch.stack(c).to(device) for c in zip(*seen)
        )
        values, next_values = (
            self._values(model, x.flatten(0, 1), config).view_as(rewards) for x in (observations, after)
        )
        rewards = (1 - ppo.DISCOUNT) * rewards  # then values are of the size of a reward
        advantage = ppo.advantages(rewards, values, next_values, terminated, ended)
        rows = {"observations": observations, "actions": actions, "old_log_p": log_p}
        rows |= {"advantage": advantage, "returns": advantage + values}
        return {name: values.flatten(0, 1) for name, values in rows.items()}

    def _begin_all(self, generator) -> dict:
        """The state of N_ENVIRONMENTS new episodes."""
        begun = [begin(self.label, int(seed)) for seed in generator.integers(2**31, size=N_ENVIRONMENTS)]
        states, observations = (torch.from_numpy(np.stack(values)) for values in zip(*begun))
        return {"states": states, "observations": observations, "lengths": torch.zeros(len(begun), dtype=torch.int64)}

    def _act_all(self, state, actions, generator):
        """(state with new episodes where one ended, observations before that, rewards, terminated, ended)."""
        outcomes = [act(self.label, one, action) for one, action in zip(state["states"].numpy(), actions)]
        states, observations, rewards, terminated = (np.stack(values) for values in zip(*outcomes))
        lengths = state["lengths"].numpy() + 1
        ended = terminated | (lengths >= longest(self.label))
        after = torch.from_numpy(observations.copy())
        for index in np.flatnonzero(ended):
            states[index], observations[index] = begin(self.label, int(generator.integers(2**31)))
        kept = {"states": states, "observations": observations, "lengths": lengths * ~ended}
        new = {name: torch.from_numpy(values) for name, values in kept.items()}
        return new, after, *(torch.from_numpy(x) for x in (rewards.astype(np.float32), terminated, ended))

    def _log_p(self, model, observations, config):
        """(B, A) log-probabilities of the actions."""
        with autocast(config, observations.device):
            logits = model(observations)
        return logits[:, 0].float().log_softmax(-1)

    def _values(self, model, observations, config):
        """(B,) values of states."""
        with autocast(config, observations.device):
            values = model.value(observations)
        return values.float()

    @torch.no_grad()
    def score(self, model, config):
        """The mean return over N_EPISODES fixed episodes in which the most probable action is taken."""
        begun = [begin(self.label, 10**6 + episode) for episode in range(N_EPISODES)]
        states, observations = (np.stack(values) for values in zip(*begun))
        returns, running = np.zeros(N_EPISODES), np.ones(N_EPISODES, bool)
        for _ in range(longest(self.label)):
            actions = self._log_p(model, torch.from_numpy(observations).to(device_of(model)), config).argmax(-1).cpu()
            for index in np.flatnonzero(running):
                states[index], observations[index], reward, ends = act(self.label, states[index], actions[index])
                returns[index] += reward
                running[index] = not ends
            if not running.any():
                break
        return {"name": "mean return", "value": float(returns.mean()), "higher_is_better": True}


def draw(log_p: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
    """(B,) actions drawn with the given log-probabilities (B, A), by inverting the cumulative distribution."""
    cumulative = log_p.double().exp().cumsum(-1)
    below = torch.from_numpy(generator.random((len(log_p), 1))) * cumulative[:, -1:]
    return (cumulative <= below).sum(-1).clamp(max=log_p.shape[1] - 1)
