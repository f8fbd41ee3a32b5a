"""Which architectures of a task are checked with which activations."""

from activations import ACTIVATIONS, REPORT
from architectures.registry import architectures_of

SOME = (*REPORT, "swiglu", "prelu")  # the report's five, a gated and a learnable one


def grid(task: str, with_all: str) -> list[tuple[str, str]]:
    """(architecture, activation): every architecture of the task with SOME, and one, `with_all`, with every activation."""
    found = [(name, activation) for name in architectures_of(task) for activation in SOME]
    return found + [(with_all, activation) for activation in ACTIVATIONS if activation not in SOME]
