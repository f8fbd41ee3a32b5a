"""The identity of a trial, its environment, and the content of its checkpoint."""

from dataclasses import dataclass

import randomness
from common.checkpoint_files import TRAINED_MODEL, kind_of_checkpoint, read_checkpoint
from common.errors import RunError, UserError
from config import Config

SAVE_EVERY_S = 60.0  # how often a running trial saves its state
REPORT_EVERY_S = 0.5


@dataclass(frozen=True)
class Trial:
    """The identity of a trial, except for its task and data.

    seeds: stream (init, data, dropout) -> seed; bit -> seed of the flipped bit, or None.
    compiled: whether the training step is compiled with torch.compile (training/compiled.py).
    """

    architecture: str
    activation: str
    config: Config
    number: int  # from 1
    seed: int
    seeds: dict[str, int | None]
    device: str = "cpu"
    protocol: str = "matched"
    compiled: bool = False

    @property
    def name(self):
        return f"{self.architecture}_{self.activation}"

    def seed_of(self, stream: str, step: int) -> int:
        """The seed of "data" or "dropout" in a training step (from 0): before `config.branch_step` that of trial 1."""
        return self.seeds[stream] if step >= self.config.branch_step else self.seed - self.number + 1


def arithmetic(config, compiled) -> dict:
    """The entries of an identity on which rounding depends; `compiled` is absent from those of plain trials."""
    version = {"numerics_version": randomness.numerics_version(config.dtype, compiled)}
    return version | ({"compiled": True} if compiled else {})


def stream_seeds(seed_base: int, number: int, vary) -> dict[str, int | None]:
    """The seed of each stream in trial `number`: seed_base + number - 1 if the stream is varied, else seed_base.

    The seed of "bit" is None unless it is varied: then no bit is flipped.
    """
    seed = seed_base + number - 1
    seeds = {stream: seed if stream in vary else seed_base for stream in ("init", "data", "dropout")}
    return seeds | {"bit": seed if "bit" in vary else None}


class Interrupted(Exception):
    """Raised when a trial was asked to stop and has saved its state; it can be resumed."""


def prepare_torch(config):
    """Sets the number of threads and deterministic algorithms, on which the last bits of a sum depend.

    Call before the first computation on a GPU: cuBLAS reads its setting once, when it starts.
    """
    import os

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import torch

    torch.set_num_threads(config.threads_per_trial)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # costs time and changes no result
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False  # partial sums stay in float32
    torch.backends.cudnn.allow_tf32 = False


def environment_of(trial) -> dict:
    """The environment of a trial: versions, hardware and threads."""
    from common.provenance import environment

    return environment(trial.device, trial.config.threads_per_trial, trial.compiled)


def partial_identity(trial, task):
    """The identity that a saved state must match to be resumed."""
    from architectures.registry import user_sources

    return {
        "protocol": trial.protocol,
        "architecture": trial.architecture,
        "activation": trial.activation,
        **user_sources(trial.architecture, trial.activation),
        "config": trial.config.as_dict(),
        "seeds": trial.seeds,
        "device": trial.device,
        **task.identity(),
        **arithmetic(trial.config, trial.compiled),
    }


def checkpoint_content(trial: Trial, task, outcome) -> dict:
    """The content of a final checkpoint: weights under "model", and all that is needed to rebuild the model."""
    from architectures.registry import user_sources

    return {
        "kind": TRAINED_MODEL,
        "model": outcome["weights"],
        "architecture": trial.architecture,
        "activation": trial.activation,
        **user_sources(trial.architecture, trial.activation),
        "config": trial.config.as_dict(),
        **task.checkpoint_facts(),
        "trial": trial.number,
        "seeds": trial.seeds,
        **arithmetic(trial.config, trial.compiled),
        "weights_sha256": outcome["record"]["weights_sha256"],
    }


def load_model(path):
    """(model in evaluation mode on the CPU, checkpoint content) from a final checkpoint."""
    from architectures.registry import build_model, check_user_sources
    from tasks.registry import model_sizes_of

    try:
        content = read_checkpoint(path)
    except FileNotFoundError:
        raise UserError(f"checkpoint not found: {path}") from None
    if (found := kind_of_checkpoint(content)) != TRAINED_MODEL:
        raise UserError(f"{path} is {found}, not {TRAINED_MODEL}")
    try:
        check_user_sources(content)
        config = Config(**content["config"])
        model = build_model(content["architecture"], content["activation"], config, model_sizes_of(content))
        model.load_state_dict(content["model"])
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise RunError(f"{path} is not a checkpoint of a model that this program can build ({reason})") from error
    return model.eval(), content
