"""Times a training step with each activation, for the audit of the report's speed claims.

    python audit_timing.py                                      # about seven minutes; writes results/timing.json
    python audit_timing.py --repeats 10 --output results/reference/timing.json

Times recorded in a study are not comparable: its trials run concurrently, one activation after the other, under varying
load. Here one process with one thread cycles through the activations repeatedly and compares them within a cycle. Two
kinds of step are timed: that of the report's protocol (eager, PyTorch's dropout) and that of matched studies; also an
evaluation batch, since the report's training times include loss estimates, and a few steps of the full-size model.
Tokens are random: the time does not depend on the text.
"""

if __name__ == "__main__":
    import common.startup  # noqa: F401 - first: the other imports are slow

from pathlib import Path

import numpy as np

from claims.timing import measure, trial_seconds
from common.errors import UserError
from common.scripts import Parser, run
from config import Config
from config_cpu import ConfigCPU


def parser():
    p = Parser(prog="audit_timing.py", description="Time a training step with each of the report's activations.")
    p.add_argument("--repeats", type=int, default=5, help="cycles through all activations (default: %(default)s)")
    p.add_argument("--steps", type=int, default=20, help="steps of each kind per cycle (default: %(default)s)")
    p.add_argument("--full-steps", type=int, default=3, help="steps of the full-size model; 0: none (default: 3)")
    p.add_argument("--output", type=Path, default=Path("results/timing.json"), help="default: %(default)s")
    return p


def main(argv=None) -> int:
    args = parser().parse_args(argv)
    for name, least in (("repeats", 2), ("steps", 1), ("full_steps", 0)):
        if getattr(args, name) < least:
            raise UserError(f"--{name.replace('_', '-')} must be at least {least}, but it is {getattr(args, name)}")
    from common.json_files import write_json

    content = measure(
        ConfigCPU(),
        Config(dtype="float32"),
        args.repeats,
        args.steps,
        args.full_steps,
        say=lambda text: print(text, flush=True),
    )
    for name in content["activations"]:
        seconds = trial_seconds(content, name)
        print(
            f"{name:10} {np.median(seconds):7.2f} s per trial of the report's protocol ({seconds.min():.2f} to"
            f" {seconds.max():.2f}), {content['summary'][name]['fast_step_s']['median'] * 1000:.1f} ms per fast step"
        )
    write_json(args.output, content)
    print(f"written: {args.output}")
    return 0


if __name__ == "__main__":
    run(main)
