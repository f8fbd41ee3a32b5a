"""A quick check of an installation: does it train, is it bit-reproducible, does it write results?

    python test_cpu.py                                     # under a minute on two cores
    python test_cpu.py --architecture-file my_model.py     # check a user-defined model and list its problems
    python test_cpu.py --activation-file my_activation.py --task images

Exit status: 0 all checks passed, 1 a check failed, 2 invalid command.
"""

if __name__ == "__main__":
    import common.startup  # noqa: F401 - first: the other imports are slow

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common.errors import RunError, UserError
from common.scripts import Parser, run
from training.options import add_file_options, load_user_files

ROOT = Path(__file__).resolve().parent
SMALL = ("--max-iters=10", "--eval-interval=5", "--n-embd=32", "--block-size=64", "--curve-windows=10")


def check_training() -> str:
    """Trains one trial twice; returns a sentence, or raises RunError with one."""
    from config_cpu import ConfigCPU
    from tasks.corpus import make_corpus, pydoc_text
    from tasks.text import Text
    from train import run_trial
    from training.trial import Trial, stream_seeds

    text = Text(make_corpus("the pydoc manual", pydoc_text()[:200_000]))
    config = ConfigCPU(max_iters=20, eval_interval=10, n_embd=32, block_size=64, curve_windows=10)
    trial = Trial("charlm", "smelu_1", config, 1, 42, stream_seeds(42, 1, ("init", "data", "dropout")))
    first, second = (run_trial(trial, text)["record"] for _ in range(2))
    before, after = first["history"][0]["val_loss"], first["history"][-1]["val_loss"]
    if not after < before:
        raise RunError(f"training does not lower the loss: {before:.3f} before, {after:.3f} after 20 steps")
    if first["weights_sha256"] != second["weights_sha256"]:
        raise RunError("the same trial trained twice gives different weights")
    return f"trains (validation loss {before:.3f} -> {after:.3f} nats in 20 steps); bit-identical when repeated"


def check_study() -> str:
    """Runs a tiny study through the command line, then verifies a trial of it."""
    from common import json_files

    with tempfile.TemporaryDirectory() as folder:
        folders = [f"--{kind}-dir={folder}/{kind}" for kind in ("results", "checkpoints", "plots")]
        study = ("run_all_experiments.py", "--activations=relu", "--trials=2", "--corpus=pydoc", *SMALL, *folders)
        _run(study, "the study runner fails")
        _run(("train.py", f"--verify={folder}/results/charlm_relu.json"), "a stored trial cannot be repeated")
        result = json_files.read_json(Path(folder) / "results" / "charlm_relu.json")
        pd = result["pairs"][0]["relative_pd"]
    return (
        f"runs a study in worker processes, writes its results (relative PD of two models {pd:.3f}), verifies a trial"
    )


def _run(command, complaint):
    done = subprocess.run([sys.executable, str(ROOT / command[0]), *command[1:]], capture_output=True, text=True)
    if done.returncode != 0:
        raise RunError(f"{complaint}: {(done.stderr or done.stdout).strip()[-500:]}")


def check_installation() -> int:
    """Runs every check, prints the outcomes and returns the exit status."""
    started = time.perf_counter()
    passed = True
    for check in (check_training, check_study):
        try:
            print(f"ok      {check()}", flush=True)
        except RunError as problem:
            passed = False
            print(f"FAILED  {problem}", flush=True)
    verdict = "this installation works" if passed else "this installation does NOT work correctly"
    print(f"{verdict} ({time.perf_counter() - started:.0f} s)")
    return 0 if passed else 1


def check_files(args) -> int:
    """Runs every check that a user-defined architecture (with ReLU) or activation (in the task's first) must pass."""
    from architectures.checks import check, describe_sizes, stages
    from architectures.registry import architecture_record, check_task, default_architecture
    from config_cpu import ConfigCPU
    from tasks.registry import load_task
    from training.trial import prepare_torch

    _, defined = load_user_files(args)
    own = defined.get("architecture")
    name = args.task or (architecture_record(own).task if own else "text")
    architecture = own or default_architecture(name)
    activation = defined.get("activation", "relu")
    check_task(architecture, name)
    task = load_task(name) if name != "text" else None
    config = ConfigCPU()
    prepare_torch(config)  # check under the settings of a trial
    problems = check(architecture, activation, config, task)
    for problem in problems:
        print(f"FAILED  {problem}")
    for passed in () if problems else (one for stage in stages(task) for one in stage):
        print(f"ok      {passed.__doc__.splitlines()[0]}")
    verdict = "cannot be trained" if problems else "all checks passed; it can be trained"
    print(f"{architecture} with {activation}: {verdict} (checked with {describe_sizes(config)})")
    return 1 if problems else 0


def main(argv=None) -> int:
    p = Parser(prog="test_cpu.py", description="Check this installation, or a user-defined model or activation.")
    add_file_options(p)
    p.add_argument("--task", metavar="NAME", help="what such a model is trained on (default: its TASK, or text)")
    args = p.parse_args(argv)
    if args.architecture_file or args.activation_file:
        return check_files(args)
    if args.task:
        raise UserError("--task says what a model or activation of your own is checked on; give its file")
    return check_installation()


if __name__ == "__main__":
    run(main)
