"""The report's CPU configuration: 429,824 parameters at a vocabulary of 65, 100 training steps."""

from dataclasses import dataclass

from config import Config


@dataclass(frozen=True, kw_only=True)
class ConfigCPU(Config):
    """CharLM as the report ran it on a laptop's CPU; each field is explained in config.py."""

    n_layer: int = 2
    n_head: int = 4
    n_embd: int = 128
    block_size: int = 128
    batch_size: int = 32
    max_iters: int = 100
    eval_interval: int = 50
    eval_iters: int = 50
    dtype: str = "float32"
