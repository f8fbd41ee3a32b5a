"""One probe or comparison of trained models on a fixed batch, with the reason where it cannot be measured."""

import time

import torch

import randomness
from common.errors import UserError
from common.memory import is_out_of_memory
from diagnostics.comparisons import COMPARISONS, compare_models
from diagnostics.probes import PROBES, fixed_batch
from tasks.base import device_of


def measure(name: str, models, task, config, activations, seed: int) -> tuple[dict[str, float] | str, float]:
    """(numbers by name, or the reason why there are none; seconds).

    If memory runs out, half of the batch is tried, and so on; "examples used" then says how many were left.

    Parameters
    ----------
    name : str
        Of PROBES, for one model, or of COMPARISONS, for two.
    models : list of nn.Module
        In evaluation mode.
    activations : list of str
        Of the models.
    seed : int
        Of the generator that the probe or comparison draws from.
    """
    started = time.perf_counter()
    whole = fixed_batch(task, config, device_of(models[0]))
    used = len(whole[0])
    while True:
        batch, generator = tuple(part[:used] for part in whole), randomness.generator(seed, "probe", 0, name)
        try:
            found = _measured(name, models, batch, generator, config, activations)
        except (RuntimeError, ValueError, TypeError, MemoryError, UserError) as error:
            if not is_out_of_memory(error):
                kind = "" if isinstance(error, UserError | ValueError) else f"{type(error).__name__}: "
                return f"{kind}{error}".splitlines()[0], time.perf_counter() - started
            if used == 1:
                return "out of memory, even for one example; try --workers 1", time.perf_counter() - started
        else:
            found |= {} if used == len(whole[0]) else {"examples used": float(used)}
            return found, time.perf_counter() - started
        used //= 2


def _measured(name, models, batch, generator, config, activations):
    with torch.inference_mode(False), torch.enable_grad():
        if name in PROBES:
            (model,) = models
            return {key: float(value) for key, value in PROBES[name](model, batch, generator, config).items()}
        return compare_models(name, *models, batch, generator, config, activations)


NAMES = (*PROBES, *COMPARISONS)
