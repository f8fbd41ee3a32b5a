"""What a trial needs at the least, so that one which no machine like this can hold is refused before anything is made."""

from architectures.registry import BUILT_IN, architecture_record, count_parameters
from architectures.sizes import n_parameters
from common.errors import UserError
from common.memory import machine_memory
from config import Config

WORD = 4  # bytes of a float32


def least_bytes(architecture: str, config: Config, model_sizes) -> int:
    """Bytes that training a model takes at the least, in exact integers.

    Weights, gradients and AdamW's two moments, all in float32. Of text, whose architectures are all as large as CharLM, also
    what the backward pass needs of one batch: each layer's input and output, and the logits with their gradient.
    """
    if architecture not in BUILT_IN or architecture_record(architecture).task != "text":
        try:
            return 4 * WORD * count_parameters(architecture, config, model_sizes)
        except Exception:  # a user's model may fail to build on the meta device
            return 0
    n_weights = n_parameters(config.n_layer, config.n_embd, config.block_size, model_sizes)
    kept = config.batch_size * config.block_size * 2 * (config.n_layer * config.n_embd + model_sizes)
    return WORD * (4 * n_weights + kept // (2 if config.dtype == "bfloat16" else 1))


def check_memory(config: Config, experiments, model_sizes, device: str, pack: int | None = None) -> None:
    """A UserError where this machine's memory, or its GPU's, cannot hold one trial, or one pack of them."""
    memory = machine_memory(device)
    for architecture in dict.fromkeys(name for name, _ in experiments):
        needed = (pack or 1) * least_bytes(architecture, config, model_sizes)
        if needed > memory:
            what = f"a pack of {pack} trials" if pack else "a trial"
            raise UserError(
                f"{what} of {architecture} at this size takes at least {needed / 2**30:,.0f} GiB, and this machine's"
                f" {'GPU' if device == 'cuda' else 'memory'} has {memory / 2**30:,.0f}; take a smaller n_embd, n_layer,"
                " block_size or batch_size"
            )
