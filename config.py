"""The full-size configuration (GPU), and the validation of all configurations.

A configuration is frozen, complete, and part of a trial's identity. Each field has a line of help, which is also the
help of its command-line option.
"""

import dataclasses
from dataclasses import dataclass, field, fields

from common.errors import UserError, unknown

DTYPES = ("float32", "bfloat16")
EVAL_SPACINGS = ("linear", "log")


def _option(default, text):
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, kw_only=True)
class Config:
    """CharLM at full size: 10,795,776 parameters at a vocabulary of 65."""

    n_layer: int = _option(6, "transformer blocks (or layers of another architecture)")
    n_head: int = _option(6, "attention heads")
    n_embd: int = _option(384, "embedding width; a multiple of n_head")
    block_size: int = _option(256, "characters of context")
    dropout: float = _option(0.2, "dropout probability, from 0 up to but not including 1")
    batch_size: int = _option(64, "sequences (or examples) per training step")
    learning_rate: float = _option(3e-4, "AdamW's learning rate (see cooldown)")
    weight_decay: float = _option(0.01, "AdamW's decoupled weight decay")
    max_iters: int = _option(5000, "training steps")
    eval_interval: int = _option(500, "steps between points of the training curves (eval_spacing linear)")
    eval_iters: int = _option(200, "batches per loss estimate (published protocol only)")
    curve_windows: int = _option(50, "windows (or examples) of each split used for a point of the curves")
    dtype: str = _option("bfloat16", "dtype of matrix products: float32 or bfloat16 (autocast)")
    threads_per_trial: int = _option(1, "CPU threads per trial; part of its identity, since rounding depends on it")
    # Fields added later: the default means the old behaviour, so that stored identities stay valid.
    cooldown: float = _option(0.0, "final fraction of the steps in which the learning rate falls linearly to 0")
    eval_spacing: str = _option(
        "linear", "spacing of curve points: linear, or log (steps 0, 1, 2, 4, 8, ... and the last)"
    )
    branch_step: int = _option(0, "training steps in which all trials draw the same data and dropout; then they branch")

    def __post_init__(self):
        for spec in fields(self):
            value = _of_type(spec.name, getattr(self, spec.name), type(spec.default))
            object.__setattr__(self, spec.name, value)  # 1 and 1.0 must be the same identity
        for spec in fields(self):
            if type(spec.default) is int and spec.name != "branch_step":
                _check(getattr(self, spec.name) >= 1, spec.name, getattr(self, spec.name), "must be at least 1")
        _check(0 < self.learning_rate < float("inf"), "learning_rate", self.learning_rate, "must be positive")
        _check(0 <= self.weight_decay < float("inf"), "weight_decay", self.weight_decay, "must not be negative")
        _check(0 <= self.dropout < 1, "dropout", self.dropout, "must be at least 0 and less than 1")
        _check(
            0 <= self.branch_step < self.max_iters or not self.branch_step,
            "branch_step",
            self.branch_step,
            f"must be from 0 to less than max_iters ({self.max_iters})",
        )
        _check(0 <= self.cooldown <= 1, "cooldown", self.cooldown, "must be from 0 to 1")
        for name, choices in (("dtype", DTYPES), ("eval_spacing", EVAL_SPACINGS)):
            if getattr(self, name) not in choices:
                raise unknown(name, getattr(self, name), choices)
        if self.n_embd % self.n_head:
            raise UserError(
                f"n_embd must be a multiple of n_head, but {self.n_embd} is not a multiple of {self.n_head}"
            )

    def as_dict(self) -> dict:
        """Field name -> value; JSON-compatible."""
        return dataclasses.asdict(self)

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of a training step (from 0): constant, then falling linearly to 0 over the cooldown."""
        first = self.max_iters - round(self.cooldown * self.max_iters)
        if step < first or first == self.max_iters:
            return self.learning_rate
        return self.learning_rate * (self.max_iters - step) / (self.max_iters - first)

    def curve_steps(self) -> list[int]:
        """The steps of the curve points, from 0 to max_iters."""
        if self.eval_spacing == "linear":
            return [*range(0, self.max_iters, self.eval_interval), self.max_iters]
        return [0, *(2**k for k in range((self.max_iters - 1).bit_length())), self.max_iters]

    def replace(self, **changes) -> "Config":
        """A checked copy with some fields changed."""
        return dataclasses.replace(self, **changes)


def _check(holds, name, value, what):
    if not holds:
        raise UserError(f"{name} {what}, but it is {value}")


def _of_type(name, value, wanted):
    if wanted is float and type(value) is int:
        return float(value)
    if type(value) is not wanted:
        raise UserError(f"{name} must be of type {wanted.__name__}, but it is {value!r}")
    return value
