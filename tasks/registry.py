"""Tasks by name: loading a task, or the task of a stored result or checkpoint."""

from collections.abc import Callable

from common.errors import unknown
from tasks import corpus as corpora
from tasks.base import Task
from tasks.text import Text


def _load_text(data: str) -> Task:
    return Text(corpora.load_corpus(data))


TASKS: dict[str, Callable[[str], Task]] = {"text": _load_text}


def load_task(name: str = "text", data: str = "auto") -> Task:
    """The task called `name`; `data`: location of its data (for text as in --corpus)."""
    if name not in TASKS:
        raise unknown("task", name, TASKS)
    return TASKS[name](data)


def load_recorded(result: dict, data: str = "auto") -> Task:
    """The task of a result, with verified data; raises UserError if they are unavailable."""
    if "task" not in result:
        return Text(corpora.load_recorded(result["corpus"], data))
    return load_task(result["task"]["name"], data)


def model_sizes_of(checkpoint: dict):
    """`Task.model_sizes` of a checkpoint's task."""
    return len(checkpoint["vocabulary"]) if "vocabulary" in checkpoint else checkpoint["task"]["model_sizes"]
