"""What a probe or a comparison costs (`python benchmark.py diagnostics`), in training steps of the same model."""

import numpy as np

from config_cpu import ConfigCPU
from diagnostics.comparisons import COMPARISONS
from diagnostics.measure import measure
from diagnostics.probes import PROBES
from training.workload import Workload, quartiles, seconds

STEPS = 50  # of training before anything is measured: eigenvalues of an untrained model converge at another rate
ACTIVATION = "gelu"


def benchmark_diagnostics(repeats, size):
    """Yields {name_steps: duration of one measurement of CharLM, divided by that of a training step just before it}."""
    config = ConfigCPU(**size)
    workloads = [Workload(config, activation=ACTIVATION) for _ in range(2)]
    for workload in workloads:
        for _ in range(1 if size else STEPS):
            workload.step()
    models, task = [workload.learner.model.eval() for workload in workloads], workloads[0].task
    for name in (*PROBES, *COMPARISONS):
        measured = models[: 1 if name in PROBES else 2]
        ratios = []
        for _ in range(repeats):
            models[0].train()
            step = np.median([seconds(workloads[0].step) for _ in range(3)])
            models[0].eval()
            found, duration = measure(name, measured, task, config, [ACTIVATION] * len(measured), 0)
            if isinstance(found, str):
                raise RuntimeError(f"{name}: {found}")
            ratios.append(duration / step)
        yield {f"{name}_steps": quartiles(ratios)}
