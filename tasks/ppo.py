"""Proximal policy optimization (PPO, clipped), as pure functions of tensors. S steps in N environments, A actions.

References
----------
Schulman et al. 2016, High-dimensional continuous control using generalized advantage estimation, arXiv 1506.02438.
Schulman et al. 2017, Proximal policy optimization algorithms, arXiv 1707.06347.
"""

import torch
from torch.nn import functional as F

DISCOUNT = 0.99  # gamma
TRACE = 0.95  # lambda of generalized advantage estimation
CLIP = 0.2  # epsilon: how far the probability ratio is followed
VALUE_WEIGHT = 0.5  # c1
ENTROPY_WEIGHT = 0.01  # c2
CONSTANTS = ("DISCOUNT", "TRACE", "CLIP", "VALUE_WEIGHT", "ENTROPY_WEIGHT")


def advantages(rewards, values, next_values, terminated, ended):
    """Generalized advantage estimates, (S, N).

    delta_t = r_t + gamma V(s_t+1) - V(s_t) and A_t = delta_t + gamma lambda A_t+1 (1506.02438, equations 11 and 16), where
    V(s_t+1) is 0 if s_t+1 is terminal, and A_t+1 is 0 if the episode ended there, be it at the limit of its length.

    Parameters
    ----------
    rewards, values, next_values : (S, N) tensors
        r_t, V(s_t) and V(s_t+1), where s_t+1 is what step t led to, before a new episode begins.
    terminated, ended : (S, N) tensors of booleans
        Whether s_t+1 is terminal; whether the episode ended there (terminal, or at the limit).
    """
    delta = rewards + DISCOUNT * next_values * ~terminated - values
    found, running = torch.empty_like(delta), torch.zeros_like(delta[0])
    for t in reversed(range(len(delta))):
        running = delta[t] + DISCOUNT * TRACE * running * ~ended[t]
        found[t] = running
    return found


def loss(log_p, values, actions, old_log_p, advantage, returns):
    """The negative of PPO's objective on B samples (1707.06347, equations 7 and 9), a scalar.

    -mean(min(r A, clip(r, 1 - epsilon, 1 + epsilon) A)) + c1 mean((V - R)^2) - c2 mean(entropy), where r is the ratio of the
    action's probability to that at the time of acting, and A is standardized within the batch.

    Parameters
    ----------
    log_p : (B, A) tensor
        Log-probabilities of the actions.
    values, old_log_p, advantage, returns : (B,) tensors
        returns: the targets of the values.
    actions : (B,) integers
    """
    ratio = (log_p.gather(1, actions[:, None])[:, 0] - old_log_p).exp()
    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    objective = torch.minimum(ratio * advantage, ratio.clamp(1 - CLIP, 1 + CLIP) * advantage).mean()
    entropy = -(log_p.exp() * log_p).sum(1).mean()
    return VALUE_WEIGHT * F.mse_loss(values, returns) - objective - ENTROPY_WEIGHT * entropy
