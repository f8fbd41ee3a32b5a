"""Environments of gymnasium as functions of their state, and the fixed states on which policies are compared.

One environment serves any number of episodes, since its whole state is passed in and out: four numbers.
"""

import functools

import numpy as np

from tasks.data_files import import_needed

N_STATES = 512
RANDOM = 0.2  # of the reference controller's actions while it visits them


def reference_action(name: str, observation: np.ndarray) -> int:
    """The action of the reference controller, which solves the task (mean return 500 and about -82).

    CartPole: push in the direction in which the pole falls and the cart is off; weights found by hand. Acrobot: push the
    lower joint in the direction in which it turns, which feeds energy into the swing.
    """
    if name == "CartPole-v1":
        return int(np.dot(observation, (0.02, 0.1, 1.0, 0.25)) > 0)
    return 2 if observation[5] > 0 else 0


def _gymnasium():
    return import_needed("gymnasium", "gymnasium", "control")


@functools.cache
def environment(name: str):
    """The environment without wrappers: the limit on the length of an episode is applied here."""
    return _gymnasium().make(name).unwrapped


@functools.cache
def longest(name: str) -> int:
    """The number of steps after which an episode is cut off."""
    return _gymnasium().spec(name).max_episode_steps


def begin(name: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(state, observation) at the start of the episode of a seed."""
    env = environment(name)
    observation, _ = env.reset(seed=seed)
    return np.array(env.state, np.float64), observation


def act(name: str, state: np.ndarray, action: int) -> tuple[np.ndarray, np.ndarray, float, bool]:
    """(state, observation, reward, whether the state is terminal) after an action in a state."""
    env = environment(name)
    env.state = state
    env.steps_beyond_terminated = None  # what else CartPole remembers: of another episode
    observation, reward, terminated, _, _ = env.step(int(action))
    return np.array(env.state, np.float64), observation, float(reward), terminated


def fixed_states(name: str) -> tuple[np.ndarray, np.ndarray]:
    """(observations (N_STATES, D), the reference controller's actions there): every 5th state that it visits.

    Rounded to 4 decimals, so that the last bits of a machine's sines are no other data.
    """
    generator = np.random.default_rng(0)
    visited: list[np.ndarray] = []
    episode = 0
    while len(visited) < 5 * N_STATES:
        state, observation = begin(name, episode)
        episode += 1
        for _ in range(longest(name)):
            visited.append(observation)
            chosen, explores = generator.integers(environment(name).action_space.n), generator.random() < RANDOM
            state, observation, _, terminated = act(
                name, state, chosen if explores else reference_action(name, observation)
            )
            if terminated:
                break
    observations = np.round(np.stack(visited[: 5 * N_STATES : 5]), 4).astype(np.float32)
    return observations, np.array([reference_action(name, one) for one in observations])
