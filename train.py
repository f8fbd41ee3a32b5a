"""One trial: the training loop, and a script that trains a trial, verifies one, or samples text from a model.

    python train.py --activation gelu                                # train one trial, save its checkpoint
    python train.py --verify results/charlm_relu.json --trial 3      # retrain it: bit-identical?
    python train.py --sample checkpoints/charlm_relu/trial_1.pt      # sample text from a trained model

A trial is a pure function of its `Trial` and the task. Every random draw has an address (randomness.py), so resuming a
trial takes its weights, optimizer state and step, but no generator state.
"""

if __name__ == "__main__":
    import common.startup  # noqa: F401 - first: the other imports are slow

import math
import time
from pathlib import Path

import randomness
from common import checkpoint_files, files, json_files
from common.errors import RunError, UserError
from common.provenance import numeric_environment
from common.scripts import Parser, run
from config import Config
from training.options import (
    add_compile_option,
    add_config_options,
    add_file_options,
    add_task_options,
    check_device,
    check_user_files,
    check_user_files_are_used,
    choose_compiled,
    choose_config,
    load_user_files,
)
from training.trial import (
    REPORT_EVERY_S,
    SAVE_EVERY_S,
    Interrupted,
    Trial,
    checkpoint_content,
    environment_of,
    load_model,
    partial_identity,
    prepare_torch,
    stream_seeds,
)


def run_trial(trial: Trial, task, partial_path=None, report=None, should_stop=None, probes=()) -> dict:
    """Trains and evaluates one trial under the matched protocol.

    Parameters
    ----------
    trial : Trial
    task : tasks.base.Task
    partial_path : path, optional
        File in which the running trial saves its state and from which it resumes; None: state is not saved. The
        predictions at the curve points are written next to it (training/curve_files.py).
    report : callable, optional
        Called with {trial, step, loss} every REPORT_EVERY_S seconds, with {trial, resumed: step} when a trial resumes,
        and with {warning}.
    should_stop : callable, optional
        Called after each step; once it returns true, the state is saved and Interrupted is raised.
    probes : sequence of str
        Names from diagnostics.probes.PROBES, measured at each curve point; they change nothing else.

    Returns
    -------
    dict
        record: the trial's entry in a result; weights: name -> tensor (CPU); curve: list of (step, (Wc, T, V)
        log-probabilities or the path of their file); log_probabilities (W, T, V); window_loss (W,). All but the record
        are None if the trial diverged.
    """
    from training.compiled import CompiledTrial
    from training.step import SingleTrial

    prepare_torch(trial.config)
    learner = (CompiledTrial if trial.compiled else SingleTrial)(trial, task)
    state = _load_partial(partial_path, learner, report)
    _train(learner, state, partial_path, report, should_stop, probes)
    return _outcome(learner, state)


def _train(learner, state, partial_path, report, should_stop, probes):
    """The training loop: from state["step"] to max_iters, or until the loss is no longer finite."""
    trial = learner.trial
    # Reading a loss synchronizes with a GPU; there, losses are read at the curve points only.
    reads_each_loss = trial.device == "cpu"
    reported = saved = time.perf_counter()
    curve_steps = set(trial.config.curve_steps())
    for step in range(state["step"], trial.config.max_iters + 1):
        if step in curve_steps and (not state["history"] or state["history"][-1]["step"] < step):
            _add_point(step, learner, state, probes, partial_path, report)
        if step == trial.config.max_iters or state["diverged_at"] is not None:
            return
        started = time.perf_counter()
        loss = learner.update(step)
        state["step"] = step + 1
        now = time.perf_counter()
        state["training_time_s"] += now - started
        if reads_each_loss:
            _note_loss(state, loss.item(), state["step"])
            if state["diverged_at"] is not None:
                return
        if report and now - reported > REPORT_EVERY_S:
            report({"trial": trial.number, "step": state["step"], "loss": state["loss"]})
            reported = now
        stop = should_stop is not None and should_stop()
        if stop or now - saved > SAVE_EVERY_S:
            _save_partial(partial_path, learner, state, report)
            saved = time.perf_counter()
        if stop:
            raise Interrupted


def _note_loss(state, loss, step):
    """Records the last loss, or the step at which it stopped being finite."""
    if math.isfinite(loss):
        state["loss"] = loss
    else:
        state["diverged_at"] = step


def _add_point(step, learner, state, probes, partial_path, report):
    """Evaluates the trial at a curve point."""
    from diagnostics.probes import measure_probes
    from training import evaluate
    from training.step import synchronize

    trial, model, task = learner.trial, learner.model, learner.task
    state["training_time_s"] += synchronize(trial.device)
    started = time.perf_counter()
    train_loss, val_loss, log_p = evaluate.curve_point(model, task, trial.config)
    _note_loss(state, train_loss if math.isfinite(val_loss) else val_loss, step)
    if state["diverged_at"] is None:
        point = {"step": step, "train_loss": train_loss, "val_loss": val_loss}
        if probes:
            point["probes"] = measure_probes(probes, model, task, trial, step)
        state["history"].append(point)
        state["curve"].append((step, _kept_point(log_p, step, trial, task, partial_path, report)))
    state["evaluation_time_s"] += time.perf_counter() - started


def _kept_point(log_p, step, trial, task, partial_path, report):
    """The path of a file with a point's predictions next to the saved state; themselves if it cannot be written."""
    from training.curve_files import about_curve, curve_folder, point_path, write_point

    if partial_path is None:
        return log_p
    folder = curve_folder(Path(partial_path).parent, trial.number)
    try:
        write_point(folder, about_curve(trial, task, environment_of(trial)), step, log_p)
    except RunError as error:
        if report:
            report({"warning": f"{error}; the trial continues, but cannot be resumed from this point"})
        return log_p
    return str(point_path(folder, step))


def _outcome(learner, state):
    """What `run_trial` returns, after training has ended."""
    from training import evaluate

    trial, model, task = learner.trial, learner.model, learner.task
    diverged = state["diverged_at"] is not None
    record = {
        "trial": trial.number,
        "seed": trial.seed,
        "seeds": trial.seeds,
        "status": "diverged" if diverged else "complete",
        "train_loss": None,
        "val_loss": None,
        "train_accuracy": None,
        "val_accuracy": None,
        "training_time_s": state["training_time_s"],
        "evaluation_time_s": state["evaluation_time_s"],
        "history": state["history"],
        "checkpoint": None,
        "weights_sha256": None,
        "environment": environment_of(trial),
    }
    outcome = {"record": record, "weights": None, "curve": None, "log_probabilities": None, "window_loss": None}
    if diverged:
        record["reason"] = f"the loss was no longer finite at step {state['diverged_at']}"
        return outcome
    started = time.perf_counter()
    final = evaluate.final_evaluation(model, task, trial.config)
    if (texts := task.continuations(model, trial.config)) is not None:
        record["continuations"] = texts
    if score := task.score(model.eval(), trial.config):
        record["score"] = score
    record["evaluation_time_s"] += time.perf_counter() - started
    record |= {name: final[name] for name in ("train_loss", "val_loss", "train_accuracy", "val_accuracy")}
    if learned := learned_activation_parameters(model):
        record["activation_parameters"] = learned
    weights = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
    record["weights_sha256"] = checkpoint_files.weights_sha256(weights)
    if not all(math.isfinite(record[name]) for name in ("train_loss", "val_loss")):
        record |= {"status": "diverged", "train_loss": None, "val_loss": None, "reason": "the final loss is not finite"}
        return outcome
    return outcome | {
        "weights": weights,
        "curve": state["curve"],
        "log_probabilities": final["log_probabilities"],
        "window_loss": final["window_loss"],
    }


def learned_activation_parameters(model) -> dict | None:
    """Name -> values of the learned parameters of activations (PReLU, APL); None if there are none."""
    names = [n for n, module in model.named_modules() if getattr(module, "is_activation", False)]
    found = {
        name: parameter.detach().flatten().tolist()
        for name, parameter in model.named_parameters()
        if any(name.startswith(f"{prefix}.") for prefix in names)
    }
    return found or None


def _save_partial(path, learner, state, report):
    trial = learner.trial
    content = {**state, "learner": learner.state(), "curve": []}  # curve points have their own files
    identity, environment = partial_identity(trial, learner.task), numeric_environment(environment_of(trial))
    checkpoint_files.save_state(path, identity, environment, content, report)


def _load_partial(path, learner, report):
    """The state from which the trial resumes: the one saved at `path` if it is usable, else step 0."""
    trial = learner.trial
    start = {"step": 0, "training_time_s": 0.0, "evaluation_time_s": 0.0}
    start |= {"history": [], "curve": [], "diverged_at": None, "loss": None}
    identity, environment = partial_identity(trial, learner.task), numeric_environment(environment_of(trial))
    content = checkpoint_files.load_state(path, identity, environment, report)
    if content is None or not _restore_curve(path, learner, content, report):
        return start
    learner.load(content["learner"])
    if report:
        report({"trial": trial.number, "resumed": content["step"]})
    return {name: content[name] for name in start}


def _restore_curve(path, learner, content, report):
    """Adds the paths of the curve points; False if one is unusable, since it cannot be computed later."""
    from training.curve_files import about_curve, curve_folder, curve_problem, point_path

    trial = learner.trial
    folder = curve_folder(Path(path).parent, trial.number)
    steps = [point["step"] for point in content["history"]]
    content["curve"] = [(step, str(point_path(folder, step))) for step in steps]
    problem = curve_problem(folder, about_curve(trial, learner.task, environment_of(trial)), steps)
    if problem and report:
        report({"warning": f"{problem}; the trial starts over"})
    return problem is None


# --- the script -----------------------------------------------------------------------------------------------------


def parser():
    p = Parser(prog="train.py", description="Train a trial, verify a trial of a study, or sample text from a model.")
    p.add_argument("--architecture", help="default: the one defined in --architecture-file, or the task's first")
    p.add_argument("--activation", help="default: the one defined in --activation-file, or relu")
    add_file_options(p)
    p.add_argument("--seed", type=int, default=42, help="seed of every stream (default: %(default)s)")
    add_task_options(p)
    p.add_argument("--output", type=Path, help="where to save the checkpoint (default: checkpoints/single/...)")
    p.add_argument("--verify", type=Path, metavar="RESULT.json", help="retrain a trial of this result and compare")
    p.add_argument("--trial", type=int, default=1, help="which trial to verify (default: %(default)s)")
    p.add_argument("--sample", type=Path, metavar="CHECKPOINT", help="sample text from this trained model")
    p.add_argument("--prompt", default="\n", help="start of the sampled text (default: a newline)")
    p.add_argument("--length", type=int, default=500, help="characters to sample (default: %(default)s)")
    p.add_argument("--temperature", type=float, default=1.0, help="0: greedy decoding (default: %(default)s)")
    add_compile_option(p)
    add_config_options(p)
    return p


def refuse_ignored_options(args):
    """Raises UserError for an option that would have no effect in the chosen mode."""
    files = {"architecture_file", "activation_file"}
    of_verify, of_sample = {"verify", "trial", "corpus"}, {"sample", "prompt", "length", "temperature", "seed"}
    ignored = {"trial", "prompt", "length", "temperature", "eval_iters"}
    for name, value in vars(args).items():
        effective = of_verify | files if args.verify else of_sample | files
        has_effect = name in effective if args.verify or args.sample else name not in ignored
        if value != parser().get_default(name) and not has_effect:
            purpose = "--verify" if args.verify else "--sample" if args.sample else "training a matched trial"
            raise UserError(f"--{name.replace('_', '-')} has no effect on {purpose}; leave it out")


def main(argv=None) -> int:
    args = parser().parse_args(argv)
    if args.verify and args.sample:
        raise UserError("--verify and --sample cannot be combined; give one of them")
    refuse_ignored_options(args)
    if not 0 <= args.seed < 2**32:
        raise UserError(f"--seed must be from 0 to 2^32 - 1, but it is {args.seed}")
    _, defined = load_user_files(args)
    if args.sample:
        return sample(args, defined)
    if args.verify:
        return verify(args.verify, args.trial, args.corpus, defined)
    return train_one(args, defined)


def train_one(args, defined) -> int:
    import torch
    from tqdm import tqdm

    from activations import resolve
    from architectures.registry import check_task, default_architecture
    from tasks.registry import load_task
    from training.compiled import check_can_be_compiled
    from training.memory import check_memory
    from training.step import build

    config, device = choose_config(args)
    architecture = args.architecture or defined.get("architecture") or default_architecture(args.task)
    check_task(architecture, args.task)
    task = load_task(args.task, args.corpus)
    task.check(config)
    activation = resolve(args.activation or defined.get("activation", "relu"))
    seeds = stream_seeds(args.seed, 1, ("init", "data", "dropout"))
    trial = Trial(architecture, activation, config, 1, args.seed, seeds, device, compiled=choose_compiled(args, device))
    check_user_files(defined, [(architecture, activation)], config, task)
    check_memory(config, [(architecture, activation)], task.model_sizes, device)
    build(trial, task.model_sizes)  # reports an invalid model before any work begins
    if trial.compiled:
        check_can_be_compiled(architecture, activation, config, task)
    output = args.output or Path("checkpoints/single") / f"{trial.name}_seed_{args.seed}.pt"
    if output.exists():
        raise UserError(f"{output} exists already; move it away or choose another --output")
    files.check_writable(output.parent)
    with tqdm(total=config.max_iters, unit="step", disable=None) as bar:

        def show(event):
            if "step" in event:
                bar.update(event["step"] - bar.n)
                bar.set_postfix(loss=f"{event['loss']:.4f}")

        outcome = run_protocol(trial, task, report=show)
        bar.update(config.max_iters - bar.n)
    record = outcome["record"]
    for point in record["history"]:
        print(
            f"step {point['step']:6d}  train loss {point['train_loss']:.4f}  val loss {point['val_loss']:.4f}"
            "  (nats per prediction, on the examples for curves)"
        )
    if record["status"] != "complete":
        raise RunError(f"the trial diverged: {record['reason']}; try a smaller --learning-rate")
    checkpoint_files.write_checkpoint(output, checkpoint_content(trial, task, outcome))
    print(
        f"{trial.name}, seed {args.seed}, {task.label}: train loss {record['train_loss']:.4f},"
        f" val loss {record['val_loss']:.4f}, val accuracy {record['val_accuracy']:.2%}"
        f" (all {'windows' if task.name == 'text' else 'examples'});"
        f" {record['training_time_s']:.1f} s training, {torch.get_num_threads()} thread(s)"
    )
    print(f"weights_sha256 {record['weights_sha256']}\nsaved as {output}")
    return 0


def sample(args, defined) -> int:
    from tasks import corpus as text
    from tasks.text import sample_text

    if args.length < 1 or not args.temperature >= 0 or not args.prompt:
        raise UserError("--length must be at least 1, --temperature not negative, and --prompt not empty")
    model, content = load_model(args.sample)
    check_user_files_are_used(defined, [(content["architecture"], content["activation"])])
    if "corpus" not in content:
        raise UserError(f"{args.sample} is a model of the task {content['task']['name']}, which writes no text")
    config = Config(**content["config"])
    prepare_torch(config)
    alphabet = text.Corpus(content["corpus"]["label"], "", content["vocabulary"], None, 0)
    print(sample_text(model, alphabet, config, args.prompt, args.length, args.temperature, seed=args.seed))
    return 0


def run_protocol(trial, task, **hooks) -> dict:
    """Trains a trial under its protocol, matched or published."""
    try:
        if trial.protocol == "published":
            from training import published_trials

            return published_trials.run_trial(trial, task, **hooks)
        return run_trial(trial, task, **hooks)
    except SystemExit as error:  # from a user-defined model: must not end the program with its status
        raise RunError(f"the model called sys.exit({error.code}) during training") from error


# --- verifying a stored trial -----------------------------------------------------------------------------------------


def verify(path: Path, number: int, corpus: str, defined: dict[str, str]) -> int:
    """Retrains a trial of a result and prints whether it is identical, or the first difference.

    Parameters
    ----------
    path : Path
        The result.
    number : int
        Trial number.
    corpus : str
        As for --corpus; "auto": the corpus recorded in the result.
    defined : dict
        Kind -> name of what the user's files define.

    Returns
    -------
    int
        Exit status: 0 identical, 1 different.
    """
    from architectures.registry import check_user_sources
    from tasks.registry import load_recorded

    if not path.exists():
        raise UserError(f"result not found: {path}")
    result = json_files.read_json(path)
    if "trials" not in result or "identity" not in result:
        raise UserError(f"{path} is not a result of one architecture and activation")
    numbers = [record["trial"] for record in result["trials"]]
    if number not in numbers:
        raise UserError(f"{path} has no trial {number}; it has {', '.join(map(str, numbers))}")
    expected = result["trials"][numbers.index(number)]
    trial = trial_of_result(result, expected)
    version = randomness.numerics_version(trial.config.dtype, trial.compiled)
    if result["numerics_version"] != version:
        raise UserError(
            f"{path} was made with numerics_version {result['numerics_version']} of {trial.config.dtype}, but this program"
            f" has {version}; check out commit {result['provenance']['git_commit']}"
        )
    check_user_sources(result)
    check_user_files_are_used(defined, [(result["architecture"], result["activation"])])
    check_device(trial.device)
    task = load_recorded(result, corpus)
    print(f"retraining {trial.name}, trial {trial.number} ({trial.config.max_iters} steps)", flush=True)
    found = run_protocol(trial, task)["record"]
    history = [{name: point[name] for name in point if name != "probes"} for point in expected["history"]]
    expected = {**expected, "checkpoint": None, "history": history}  # probes are not measured again
    difference = json_files.first_difference(json_files.stable(expected), json_files.stable(found))
    if difference is None:
        print(f"identical: weights_sha256 {found['weights_sha256']}, all losses, accuracies and texts")
        return 0
    print(f"different: {difference} (stored vs. recomputed)")
    before, now = (numeric_environment(environment) for environment in (expected["environment"], found["environment"]))
    if elsewhere := json_files.first_difference(before, now):
        print(f"the environments differ, and results are bit-identical only within one: {elsewhere}")
    return 1


def trial_of_result(result, record) -> Trial:
    """The identity of a trial, from its result; raises UserError for a batched one of an earlier version."""
    identity = result["identity"]
    if "pack" in identity:
        raise UserError(
            f"these trials were trained {identity['pack']} at a time in one batched model, which this program no longer"
            f" does; check out commit {result['provenance']['git_commit']}"
        )
    return Trial(
        architecture=result["architecture"],
        activation=result["activation"],
        config=Config(**identity["config"]),
        number=record["trial"],
        seed=record["seed"],
        seeds=record["seeds"],
        device=identity["device"],
        protocol=identity["protocol"],
        compiled=identity.get("compiled", False),
    )


if __name__ == "__main__":
    run(main)
