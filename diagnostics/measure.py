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
    batch, generator = fixed_batch(task, config, device_of(models[0])), randomness.generator(seed, "probe", 0, name)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            if name in PROBES:
                (model,) = models
                found = {key: float(value) for key, value in PROBES[name](model, batch, generator, config).items()}
            else:
                found = compare_models(name, *models, batch, generator, config, activations)
    except (RuntimeError, ValueError, TypeError, MemoryError, UserError) as error:
        if is_out_of_memory(error):
            return "out of memory; use a smaller --batch-size", time.perf_counter() - started
        return f"{type(error).__name__}: {error}".splitlines()[0], time.perf_counter() - started
    return found, time.perf_counter() - started


NAMES = (*PROBES, *COMPARISONS)
