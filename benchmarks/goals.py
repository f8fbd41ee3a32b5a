"""The goals of speed, each with the kind of machine that it was set for: no other kind meets or misses it."""

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
    """The kinds of machine that this one is.

    AMX multiplies large matrices several times as fast as AVX512-BF16, and the narrow ones of a small model no faster
    than memory delivers them, so a share of its peak says nothing about the rest. ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16
    makes a machine with AMX one without.
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
    """A goal and whether it is met, in words; '' where there is none.

    Parameters
    ----------
    part, name : str
        What was measured, as in GOALS.
    value : float
        Its median.
    kinds : set of str
        From `machine_kinds`; empty for a run that measures nothing (--quick).
    """
    goal = GOALS.get((part, name))
    if goal is None:
        return ""
    wanted = f"{'at most' if goal.at_most else 'at least'} {goal.value:g}"
    if goal.machine not in kinds:
        return f"{wanted} with {goal.machine}: not applicable here"
    met = value <= goal.value if goal.at_most else value >= goal.value
    return f"{wanted}: {'met' if met else 'missed'}"
