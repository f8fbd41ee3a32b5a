"""CharLM at a given number of parameters: rules for width, depth and learning rate.

    size_of("20M")                                       # 20_000_000
    config_for(size_of("20M"), Config(), 65)             # a Config; n_layer, n_head, n_embd, learning_rate are set

Used by `run_all_experiments.py --scale`. The rules are pure functions whose results are part of every trial's identity.

Shape. At a fixed number of parameters the loss depends little on the ratio of width to depth: a few percent over a
factor of forty (Kaplan et al. 2020, arXiv 2001.08361, section 3.1 and figure 5). So the ratio is kept near the 64 of the
report's full-size model (384 / 6), which is also that of GPT-2 small (768 / 12). Among all depths and all widths that
are multiples of 8 (for a GPU's matrix units) whose model has the requested number of parameters within TOLERANCE, the
rule chooses the closest to this ratio and to heads of 64 channels (as in both models); the distance is the sum of the
two absolute log ratios. The number of heads divides the width.

Learning rate. For transformers trained with Adam in PyTorch's standard parametrization, the best rate is about
0.003239 - 0.0001395 ln(N), where N counts parameters outside the embeddings (Kaplan et al. 2020, appendix D.6). That
was found with warm-up and decay, which this project does not use, so only the dependence on N is used: it is scaled to
the report's 3e-4 at the report's full-size model. (muP, Yang et al. 2022, would divide by the width instead, but for
hidden matrices only and with other initial weights.)
"""

import math
import re

from common.errors import UserError
from config import Config

RATIO = HEAD_SIZE = 64
TOLERANCE = 0.03  # relative, of the number of parameters
SMALLEST, LARGEST = 10**5, 10**9
# Three kinds of smoothness: ReLU is continuous, SmeLU has a continuous derivative (the report claims it is more
# reproducible), GELU has all derivatives (and is what GPT uses).
ACTIVATIONS = ("relu", "smelu_1", "gelu")
TRIALS = 3
FIELDS = ("n_layer", "n_head", "n_embd", "learning_rate")  # set by the rules


def size_of(name: str) -> int:
    """Parses a number of parameters such as '5M', '1.5m', '2000K' or '3000000'; raises UserError if invalid."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMG]?)", name.strip().upper())
    size = round(float(found[1]) * {"": 1, "K": 1e3, "M": 1e6, "G": 1e9}[found[2]]) if found else 0
    if not SMALLEST <= size <= LARGEST:
        raise UserError(f"a size is a number of parameters from 0.1M to 1000M, such as 5M, but it is {name!r}")
    return size


def size_name(size: int) -> str:
    """The canonical name of a size, used for folders: '5M', '1.5M'."""
    return f"{size / 1e6:.6f}".rstrip("0").rstrip(".") + "M"


def n_parameters(n_layer: int, width: int, block_size: int, vocabulary_size: int) -> int:
    """CharLM's number of parameters without activations: blocks, two embeddings, the last norm and the head."""
    return n_layer * (12 * width**2 + 13 * width) + (2 * vocabulary_size + block_size + 2) * width


def shape_for(size: int, block_size: int, vocabulary_size: int) -> tuple[int, int, int]:
    """(n_layer, n_head, n_embd) of CharLM with `size` parameters; raises UserError if no shape is within tolerance."""
    found = []
    for width in range(8, 8 * RATIO * round((size / RATIO) ** (1 / 3)), 8):
        per_layer = n_parameters(1, width, 0, 0) - n_parameters(0, width, 0, 0)
        n_layer = max(1, round((size - n_parameters(0, width, block_size, vocabulary_size)) / per_layer))
        if abs(n_parameters(n_layer, width, block_size, vocabulary_size) / size - 1) <= TOLERANCE:
            n_head = min(divisors(width), key=lambda n: abs(math.log(width / n / HEAD_SIZE)))
            distance = abs(math.log(width / n_layer / RATIO)) + abs(math.log(width / n_head / HEAD_SIZE))
            found.append((distance, n_layer, n_head, width))
    if not found:
        raise UserError(
            f"no CharLM has {size_name(size)} parameters within {TOLERANCE:.0%} with a vocabulary of"
            f" {vocabulary_size:,} characters and a block_size of {block_size}"
        )
    return min(found)[1:]


def divisors(n: int) -> list[int]:
    return [k for k in range(1, n + 1) if n % k == 0]


def learning_rate_for(size: int) -> float:
    """The rule's learning rate, to two digits; `size` approximates the number of non-embedding parameters."""

    def kaplan(n):
        return 0.003239 - 0.0001395 * math.log(n)

    full = Config()
    reference = n_parameters(full.n_layer, full.n_embd, 0, 0)
    return float(f"{full.learning_rate * kaplan(size) / kaplan(reference):.2g}")


def config_for(size: int, base: Config, vocabulary_size: int) -> Config:
    """`base` at another size: FIELDS are set by the rules, all others are unchanged.

    Parameters
    ----------
    size : int
        Number of parameters, from SMALLEST to LARGEST.
    base : Config
    vocabulary_size : int
        V, on which embedding and head depend.

    Returns
    -------
    Config
    """
    n_layer, n_head, n_embd = shape_for(size, base.block_size, vocabulary_size)
    rate = learning_rate_for(size)
    return base.replace(n_layer=n_layer, n_head=n_head, n_embd=n_embd, learning_rate=rate)
