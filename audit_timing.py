"""How long a training step takes with each activation: the timing run that the audit's speed claims need.

    python audit_timing.py                                      # about seven minutes; writes results/timing.json
    python audit_timing.py --repeats 10 --output results/reference/timing.json

A study's own times will not do: its trials run side by side, one activation after the other, while the machine warms
up or does something else. Here one process with one thread takes the activations in turn, again and again, and
compares them within a turn. Two steps are timed: the report's protocol (eager, its own dropout) and the one that
matched studies run. An evaluation batch is timed as well, since the report's training times contain loss estimates.
Then a few steps of the full-size model. Tokens are random: time does not depend on the text.
"""

if __name__ == "__main__":
    import common.startup  # noqa: F401 - before the others, which take long to import

from pathlib import Path

import numpy as np

from claims.timing import measure, trial_seconds
from common.errors import UserError
from common.scripts import Parser, run
from config import Config
from config_cpu import ConfigCPU


def parser():
    p = Parser(prog="audit_timing.py", description="Time a training step with each of the report's activations.")
    p.add_argument("--repeats", type=int, default=5, help="turns through all activations (default: %(default)s)")
    p.add_argument("--steps", type=int, default=20, help="steps of each kind per turn (default: %(default)s)")
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
