"""Performance goals, each with the kind of machine to which it applies."""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Goal:
    """At least (or at most) `value`, on machines of a kind."""

    value: float
    machine: str = "any machine"
    at_most: bool = False


GOALS = {
    ("step", "step_share_of_peak"): Goal(0.65, "AVX-512"),
    ("step", "evaluation_share_of_peak"): Goal(0.75, "AVX-512"),
    ("bfloat16", "step_share_of_peak"): Goal(0.55, "AVX512-BF16 without AMX"),
    ("bfloat16", "evaluation_share_of_peak"): Goal(0.55, "AVX512-BF16 without AMX"),
    ("workers", "trials_per_hour_ratio"): Goal(1.9, "two cores"),
    ("start", "help_s"): Goal(0.2, at_most=True),
    ("start", "finished_study_s"): Goal(3, at_most=True),
    ("start", "worker_memory_mb"): Goal(700, at_most=True),
    ("study", "float32_speedup"): Goal(2.9, "AVX-512"),
    ("study", "bfloat16_speedup"): Goal(5, "native bfloat16"),
    ("peers", "float32_speedup"): Goal(1.35, "AVX-512"),
    ("peers", "bfloat16_speedup"): Goal(2.5, "native bfloat16"),
}


def machine_kinds() -> set[str]:
    """The kinds of machine that this one belongs to.

    AMX multiplies large matrices several times as fast as AVX512-BF16, but the narrow matrices of a small model only as
    fast as memory delivers them, so a share of its peak is not informative. ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16 disables
    AMX.
    """
    import torch

    from common.provenance import native_bfloat16, usable_cpus

    unit = native_bfloat16("cpu") or ""
    amx = "AMX" in unit and "AMX" in os.environ.get("ONEDNN_MAX_CPU_ISA", "AMX").upper()
    holds = {
        "any machine": True,
        "AVX-512": torch.backends.cpu.get_cpu_capability() == "AVX512",
        "native bfloat16": bool(unit),
        "AVX512-BF16 without AMX": "AVX512-BF16" in unit and not amx,
        "two cores": usable_cpus() == 2,
    }
    return {kind for kind, true in holds.items() if true}


def judgement(part, name, value, kinds) -> str:
    """A goal and whether it is met, as text; '' if there is no goal.

    Parameters
    ----------
    part, name : str
        Key of GOALS.
    value : float
        Median of the measurements.
    kinds : set of str
        From `machine_kinds`; empty for a --quick run.
    """
    goal = GOALS.get((part, name))
    if goal is None:
        return ""
    wanted = f"{'at most' if goal.at_most else 'at least'} {goal.value:g}"
    if goal.machine not in kinds:
        return f"{wanted} with {goal.machine}: not applicable here"
    met = value <= goal.value if goal.at_most else value >= goal.value
    return f"{wanted}: {'met' if met else 'missed'}"
