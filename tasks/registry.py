"""Tasks by name: loading a task, or the task of a stored result or checkpoint."""

from common.errors import UserError, unknown
from tasks import corpus as corpora
from tasks.audio import Audio
from tasks.base import Task
from tasks.control import Control
from tasks.graph import Graph
from tasks.images import Images
from tasks.series import Series
from tasks.text import Text

TASKS: dict[str, type[Task]] = {kind.name: kind for kind in (Text, Images, Graph, Audio, Series, Control)}


def task_class(name: str) -> type[Task]:
    """The class of a task, which needs no data."""
    if name not in TASKS:
        raise unknown("task", name, TASKS)
    return TASKS[name]


def load_task(name: str = "text", data: str = "auto") -> Task:
    """The task called `name`; `data`: which data, or where they are, as in --data."""
    return task_class(name).load(data)


def load_recorded(result: dict, data: str = "auto") -> Task:
    """The task of a result, with verified data; raises UserError if they are unavailable."""
    if "task" not in result:
        return Text(corpora.load_recorded(result["corpus"], data))
    recorded = result["task"]
    task = load_task(recorded["name"], recorded["label"] if data == "auto" else data)
    if task.sha256 != recorded["sha256"]:
        raise UserError(
            f"the result was made on {recorded['label']}, SHA-256 {recorded['sha256'][:12]}..., but the {task.label} of"
            f" this machine has {task.sha256[:12]}..."
        )
    return task


def model_sizes_of(checkpoint: dict):
    """`Task.model_sizes` of a checkpoint's task."""
    return len(checkpoint["vocabulary"]) if "vocabulary" in checkpoint else checkpoint["task"]["model_sizes"]
