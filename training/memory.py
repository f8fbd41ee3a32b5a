"""A lower bound on a trial's memory: trials that cannot fit on this machine are rejected before anything is allocated."""

from architectures.registry import BUILT_IN, architecture_record, count_parameters
from architectures.sizes import n_parameters
from common.errors import UserError
from common.memory import machine_memory
from config import Config

WORD = 4  # bytes of a float32


def least_bytes(architecture: str, config: Config, model_sizes) -> int:
    """A lower bound on the bytes needed to train a model.

    Weights, gradients and AdamW's two moments in float32. For text, whose architectures are all as large as CharLM, also
    the activations that the backward pass needs: each layer's input and output, and the logits with their gradient.
    """
    if architecture not in BUILT_IN or architecture_record(architecture).task != "text":
        try:
            return 4 * WORD * count_parameters(architecture, config, model_sizes)
        except Exception:  # a user's model may fail to build on the meta device
            return 0
    n_weights = n_parameters(config.n_layer, config.n_embd, config.block_size, model_sizes)
    kept = config.batch_size * config.block_size * 2 * (config.n_layer * config.n_embd + model_sizes)
    return WORD * (4 * n_weights + kept // (2 if config.dtype == "bfloat16" else 1))


def check_memory(config: Config, experiments, model_sizes, device: str) -> None:
    """Raises UserError if a trial does not fit into this machine's memory, or its GPU's."""
    memory = machine_memory(device)
    for architecture in dict.fromkeys(name for name, _ in experiments):
        needed = least_bytes(architecture, config, model_sizes)
        if needed > memory:
            raise UserError(
                f"a trial of {architecture} at this size needs at least {needed / 2**30:,.0f} GiB, but this machine's"
                f" {'GPU' if device == 'cuda' else 'memory'} has {memory / 2**30:,.0f}; take a smaller n_embd, n_layer,"
                " block_size or batch_size"
            )
