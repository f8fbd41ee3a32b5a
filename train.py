"""One trial: the seeded training loop, and a script that trains one, verifies one, or writes text with one.

    python train.py --activation gelu                                # train one trial, save its checkpoint
    python train.py --verify results/charlm_relu.json --trial 3      # train it again: the same bits?
    python train.py --sample checkpoints/charlm_relu/trial_1.pt      # text from a trained model

A trial is a pure function of its `Trial` and the task. Each draw has an address (randomness.py), so a trial that is
resumed needs weights, optimizer state and step, and no generator's state.
"""

if __name__ == "__main__":
    import common.startup  # noqa: F401 - before the others, which take long to import

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
    check_device,
    check_own_are_used,
    check_user_files,
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

    Args:
      trial: what to train.
      task: a tasks.base.Task.
      partial_path: where the running trial saves itself, and from where it resumes; None saves nothing. The predictions
        at the points of its curves are then written next to it, see training/curve_files.py.
      report: called as report({trial, step, loss}) now and then, report({trial, resumed}) with the step from which
        a trial continues, report({warning}).
      should_stop: called after each step; when it returns true, the trial saves itself and raises Interrupted.
      probes: names from diagnostics.probes.PROBES, measured at each point of the curves; they change nothing else.

    Returns:
      {record: the trial's entry in a result, weights: name -> tensor (CPU), curve: list of (step, (Wc, T, V)
      log-probabilities or the path of their file), log_probabilities (W, T, V), window_loss (W,)}; all but the record are
      None when it diverged.
    """
    from training.step import SingleTrial

    return run_together(SingleTrial, (trial,), (trial,), task, partial_path, report, should_stop, probes)[0]


def run_pack(trials, wanted, task, **hooks) -> list[dict]:
    """Trains the trials of a pack together: for each of those that are wanted, what `run_trial` gives.

    Args:
      trials: all N, in the order of their slots.
      wanted: some of them.
      task, hooks: as for `run_trial`.
    """
    from training.packed import Stack

    return run_together(Stack, trials, wanted, task, **hooks)


def run_together(
    make_learner, trials, wanted, task, partial_path=None, report=None, should_stop=None, probes=()
) -> list[dict]:
    """Trains trials step by step together, and evaluates those that are wanted; one of them is a trial alone.

    Args:
      make_learner: SingleTrial or packed.Stack: (trials, task) -> what the training loop trains.
      trials: of one architecture, activation, configuration and device.
      wanted: those of them whose outcomes are asked for.
      task, partial_path, report, should_stop, probes: as for `run_trial`; the state at partial_path is that of all.

    Returns:
      What `run_trial` gives, for each wanted trial. A trial's time is its share of the time of all.
    """
    prepare_torch(trials[0].config)
    learner = make_learner(trials, task)
    state = _load_partial(partial_path, trials, wanted, task, learner, report)
    _train(trials, wanted, task, learner, state, partial_path, report, should_stop, probes)
    return [
        _outcome(trial, task, learner.model_of(slot), state, state["members"][slot])
        for slot, trial in enumerate(trials)
        if trial in wanted
    ]


def _outcome(trial, task, model, state, member):
    """What `run_trial` returns, of a trial whose training has ended."""
    from training import evaluate

    together = len(state["members"])
    diverged = member["diverged_at"] is not None
    record = {
        "trial": trial.number,
        "seed": trial.seed,
        "seeds": trial.seeds,
        "status": "diverged" if diverged else "complete",
        "train_loss": None,
        "val_loss": None,
        "train_accuracy": None,
        "val_accuracy": None,
        "training_time_s": state["training_time_s"] / together,
        "evaluation_time_s": state["evaluation_time_s"] / together,
        "history": member["history"],
        "checkpoint": None,
        "weights_sha256": None,
        "environment": environment_of(trial),
    }
    outcome = {"record": record, "weights": None, "curve": None, "log_probabilities": None, "window_loss": None}
    if diverged:
        record["reason"] = f"the loss was no longer finite at step {member['diverged_at']}"
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
        "curve": member["curve"],
        "log_probabilities": final["log_probabilities"],
        "window_loss": final["window_loss"],
    }


def _train(trials, wanted, task, learner, state, partial_path, report, should_stop, probes):
    """The training loop: from state["step"] to max_iters, or until no trial has a finite loss."""
    config, device, members = trials[0].config, trials[0].device, state["members"]
    # Reading a loss makes the program wait for a GPU; there, the points of the curves notice and report.
    reads_each_loss = device == "cpu"
    reported = saved = time.perf_counter()
    curve_steps = set(config.curve_steps())
    for step in range(state["step"], config.max_iters + 1):
        if step in curve_steps:
            _add_points(step, trials, wanted, task, learner, state, probes, partial_path, report)
            if step == config.max_iters or not _still_training(members):
                return
        started = time.perf_counter()
        losses = learner.update(step)
        state["step"] = step + 1
        now = time.perf_counter()
        state["training_time_s"] += now - started
        if reads_each_loss:
            for member, loss in zip(members, losses):
                _note_loss(member, loss.item(), state["step"])
        if not _still_training(members):
            return
        if report and now - reported > REPORT_EVERY_S:
            for trial, member in zip(trials, members):
                report({"trial": trial.number, "step": step + 1, "loss": member["loss"]})
            reported = now
        stop = should_stop is not None and should_stop()
        if stop or now - saved > SAVE_EVERY_S:
            _save_partial(partial_path, trials, task, learner, state, report)
            saved = time.perf_counter()
        if stop:
            raise Interrupted


def _still_training(members):
    """Trials whose loss is still finite."""
    return [member for member in members if member["diverged_at"] is None]


def _note_loss(member, loss, step):
    """Remembers a trial's last loss, and the step at which it stopped being finite."""
    if member["diverged_at"] is None and not math.isfinite(loss):
        member["diverged_at"] = step
    elif member["diverged_at"] is None:
        member["loss"] = loss


def _add_points(step, trials, wanted, task, learner, state, probes, partial_path, report):
    """Measures the point of each curve that has none at this step yet."""
    from diagnostics.probes import measure_probes
    from training import evaluate
    from training.step import synchronize

    slots = [
        slot
        for slot, member in enumerate(state["members"])
        if member["diverged_at"] is None and (not member["history"] or member["history"][-1]["step"] < step)
    ]
    if not slots:
        return
    state["training_time_s"] += synchronize(trials[0].device)
    started = time.perf_counter()
    for slot in slots:
        member, model = state["members"][slot], learner.model_of(slot)
        train_loss, val_loss, log_p = evaluate.curve_point(model, task, trials[slot].config)
        _note_loss(member, train_loss if math.isfinite(val_loss) else val_loss, step)
        if member["diverged_at"] is None:
            point = {"step": step, "train_loss": train_loss, "val_loss": val_loss}
            if probes:
                point["probes"] = measure_probes(probes, model, task, trials[slot], step)
            member["history"].append(point)
            if trials[slot] in wanted:
                _keep_point(member, log_p, step, trials[slot], task, partial_path, report)
    state["evaluation_time_s"] += time.perf_counter() - started


def _keep_point(member, log_p, step, trial, task, partial_path, report):
    """Writes a point's predictions into a file beside the running state; without a state, or room for it, they stay here."""
    from training.curve_files import about_curve, curve_folder, point_path, write_point

    if partial_path is not None:
        folder = curve_folder(Path(partial_path).parent, trial.number)
        try:
            write_point(folder, about_curve(trial, task, environment_of(trial)), step, log_p)
            log_p = str(point_path(folder, step))
        except RunError as error:
            if report:
                report({"warning": f"{error}; the trial continues, but could not resume from here"})
    member["curve"].append((step, log_p))


def learned_activation_parameters(model) -> dict | None:
    """Name -> values of the parameters that belong to activations (PReLU, APL); None where there are none."""
    names = [n for n, module in model.named_modules() if getattr(module, "is_activation", False)]
    found = {
        name: parameter.detach().flatten().tolist()
        for name, parameter in model.named_parameters()
        if any(name.startswith(f"{prefix}.") for prefix in names)
    }
    return found or None


def _save_partial(path, trials, task, learner, state, report):
    members = [{**member, "curve": []} for member in state["members"]]  # its points lie in files of their own
    content = {**state, "learner": learner.state(), "members": members}
    identities = [partial_identity(trial, task) for trial in trials]
    checkpoint_files.save_state(path, identities, numeric_environment(environment_of(trials[0])), content, report)


def _load_partial(path, trials, wanted, task, learner, report):
    """The state from which trials resume: that of these trials at `path`, or the beginning."""
    members = [{"history": [], "curve": [], "diverged_at": None, "loss": None} for _ in trials]
    state = {"step": 0, "training_time_s": 0.0, "evaluation_time_s": 0.0, "members": members}
    identities = [partial_identity(trial, task) for trial in trials]
    content = checkpoint_files.load_state(path, identities, numeric_environment(environment_of(trials[0])), report)
    if content is None or not _takes_its_curves(path, trials, wanted, task, content["members"], report):
        return state
    learner.load(content["learner"])
    for trial in trials if report else ():
        report({"trial": trial.number, "resumed": content["step"]})
    return {name: content[name] for name in state}


def _takes_its_curves(path, trials, wanted, task, members, report):
    """Whether the points that a saved state has passed are all in their files: no trial can measure them later."""
    from training.curve_files import about_curve, curve_folder, point_path, what_is_wrong

    for trial, member in zip(trials, members):
        if trial in wanted:
            about, folder = (
                about_curve(trial, task, environment_of(trial)),
                curve_folder(Path(path).parent, trial.number),
            )
            steps = [point["step"] for point in member["history"]]
            member["curve"] = [(step, str(point_path(folder, step))) for step in steps]
            if wrong := what_is_wrong(folder, about, steps):
                if report:
                    report({"warning": f"{wrong}; the trial starts from its beginning"})
                return False
    return True


# --- the script -----------------------------------------------------------------------------------------------------


def parser():
    p = Parser(prog="train.py", description="Train one trial, verify one of a study, or sample text from one.")
    p.add_argument("--architecture", help="name of the architecture (default: that of --architecture-file, or charlm)")
    p.add_argument("--activation", help="name of the activation (default: that of --activation-file, or relu)")
    add_file_options(p)
    p.add_argument("--seed", type=int, default=42, help="seed of every stream (default: %(default)s)")
    p.add_argument("--task", default="text", help="what the model is trained on (default: %(default)s)")
    p.add_argument("--corpus", default="auto", help="auto, shakespeare, pydoc or a text file (default: %(default)s)")
    p.add_argument("--output", type=Path, help="where to save the checkpoint (default: checkpoints/single/...)")
    p.add_argument("--verify", type=Path, metavar="RESULT.json", help="train a trial of this result again and compare")
    p.add_argument("--trial", type=int, default=1, help="which trial to verify (default: %(default)s)")
    p.add_argument("--sample", type=Path, metavar="CHECKPOINT", help="write text from this trained model")
    p.add_argument("--prompt", default="\n", help="what the sampled text begins with (default: a new line)")
    p.add_argument("--length", type=int, default=500, help="characters to sample (default: %(default)s)")
    p.add_argument("--temperature", type=float, default=1.0, help="0 takes the likeliest (default: %(default)s)")
    add_compile_option(p)
    add_config_options(p)
    return p


def refuse_ignored_options(args):
    """An option that has no effect on what is asked for is a mistake, not a wish."""
    files = {"architecture_file", "activation_file"}
    of_verify, of_sample = {"verify", "trial", "corpus"}, {"sample", "prompt", "length", "temperature", "seed"}
    ignored = {"trial", "prompt", "length", "temperature", "eval_iters"}
    for name, value in vars(args).items():
        effective = of_verify | files if args.verify else of_sample | files
        has_effect = name in effective if args.verify or args.sample else name not in ignored
        if value != parser().get_default(name) and not has_effect:
            purpose = "--verify" if args.verify else "--sample" if args.sample else "training one trial, matched"
            raise UserError(f"--{name.replace('_', '-')} has no effect on {purpose}; leave it out")


def main(argv=None) -> int:
    args = parser().parse_args(argv)
    if args.verify and args.sample:
        raise UserError("--verify and --sample are two different things; give one of them")
    refuse_ignored_options(args)
    if not 0 <= args.seed < 2**32:
        raise UserError(f"--seed must be from 0 to 2^32 - 1, but it is {args.seed}")
    _, own = load_user_files(args)
    if args.sample:
        return sample(args, own)
    if args.verify:
        return verify(args.verify, args.trial, args.corpus, own)
    return train_one(args, own)


def train_one(args, own) -> int:
    import torch
    from tqdm import tqdm

    from activations import resolve
    from tasks.registry import load_task
    from training.memory import check_memory
    from training.step import build

    config, device = choose_config(args)
    task = load_task(args.task, args.corpus)
    task.check(config)
    architecture = args.architecture or own.get("architecture", "charlm")
    activation = resolve(args.activation or own.get("activation", "relu"))
    seeds = stream_seeds(args.seed, 1, ("init", "data", "dropout"))
    trial = Trial(architecture, activation, config, 1, args.seed, seeds, device, compiled=choose_compiled(args, device))
    check_user_files(own, [(architecture, activation)], config)
    check_memory(config, [(architecture, activation)], task.model_sizes, device)
    build(trial, task.model_sizes)  # complains before any work begins
    if trial.compiled:
        from training import packed

        packed.check_can_be_packed(architecture, activation, config, task, compiled=True)
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
            "  (nats per character, curve windows)"
        )
    if record["status"] != "complete":
        raise RunError(f"the trial diverged: {record['reason']}; try a smaller --learning-rate")
    checkpoint_files.write_checkpoint(output, checkpoint_content(trial, task, outcome))
    print(
        f"{trial.name}, seed {args.seed}, {task.label}: train loss {record['train_loss']:.4f},"
        f" val loss {record['val_loss']:.4f}, val accuracy {record['val_accuracy']:.2%} (all windows);"
        f" {record['training_time_s']:.1f} s training, {torch.get_num_threads()} thread(s)"
    )
    print(f"weights_sha256 {record['weights_sha256']}\nsaved as {output}")
    return 0


def sample(args, own) -> int:
    from tasks import corpus as text
    from tasks.text import sample_text

    if args.length < 1 or not args.temperature >= 0 or not args.prompt:
        raise UserError("--length must be at least 1, --temperature not negative, and --prompt not empty")
    model, content = load_model(args.sample)
    check_own_are_used(own, [(content["architecture"], content["activation"])])
    if "corpus" not in content:
        raise UserError(f"{args.sample} is a model of the task {content['task']['name']}, which writes no text")
    config = Config(**content["config"])
    prepare_torch(config)
    alphabet = text.Corpus(content["corpus"]["label"], "", content["vocabulary"], None, 0)
    print(sample_text(model, alphabet, config, args.prompt, args.length, args.temperature, seed=args.seed))
    return 0


def run_protocol(trial, task, **hooks) -> dict:
    """`run_trial`, or its counterpart under the published protocol, or where the step is compiled."""
    try:
        if trial.protocol == "published":
            from training import published_trials

            return published_trials.run_trial(trial, task, **hooks)
        if trial.compiled:
            return run_pack((trial,), (trial,), task, **hooks)[0]
        return run_trial(trial, task, **hooks)
    except (
        SystemExit
    ) as error:  # a user-defined model may call sys.exit, which must not end the program as if all were well
        raise RunError(f"the model called sys.exit({error.code}) as it trained") from error


# --- verifying a stored trial -----------------------------------------------------------------------------------------


def verify(path: Path, number: int, corpus: str, own: dict[str, str]) -> int:
    """Trains a trial of a result again, and says whether it is the same. Returns 0, or 1: the first difference is named.

    Args:
      path: the result.
      number: of the trial.
      corpus: as for --corpus; "auto" is the result's own, where it was.
      own: kind -> name of what a user's files define.
    """
    from architectures.registry import check_reader_sources
    from tasks.registry import load_recorded

    if not path.exists():
        raise UserError(f"there is no result {path}")
    result = json_files.read_json(path)
    if "trials" not in result or "identity" not in result:
        raise UserError(f"{path} is not a result of one architecture and activation")
    numbers = [record["trial"] for record in result["trials"]]
    if number not in numbers:
        raise UserError(f"{path} has no trial {number}; it has {', '.join(map(str, numbers))}")
    expected = result["trials"][numbers.index(number)]
    dtype = result["identity"]["config"]["dtype"]
    if result["numerics_version"] != randomness.numerics_version(dtype):
        raise UserError(
            f"{path} was made with numerics_version {result['numerics_version']} of {dtype}, and this program has"
            f" {randomness.numerics_version(dtype)}; check out commit {result['provenance']['git_commit']}"
        )
    check_reader_sources(result)
    check_own_are_used(own, [(result["architecture"], result["activation"])])
    trial = trial_of_result(result, expected)
    check_device(trial.device)
    task = load_recorded(result, corpus)
    print(f"training {trial.name}, trial {trial.number} again ({trial.config.max_iters} steps)", flush=True)
    found = train_again(trial, result["identity"], task)["record"]
    history = [{name: point[name] for name in point if name != "probes"} for point in expected["history"]]
    expected = {
        **expected,
        "checkpoint": None,
        "history": history,
    }  # probes change no trial, and are not measured again
    difference = json_files.first_difference(json_files.stable(expected), json_files.stable(found))
    if difference is None:
        print(f"identical: weights_sha256 {found['weights_sha256']}, and every loss, accuracy and text")
        return 0
    print(f"different: {difference} (stored against now)")
    before, now = (numeric_environment(environment) for environment in (expected["environment"], found["environment"]))
    if elsewhere := json_files.first_difference(before, now):
        print(f"the environments differ, and bits are promised within one only: {elsewhere}")
    return 1


def train_again(trial, identity, task) -> dict:
    """The outcome of a study's trial, from the study's identity: a packed one needs its whole pack."""
    if trial.pack is None:
        return run_protocol(trial, task)
    from training import packed

    return run_pack(packed.pack_of(trial, identity["seed_base"], identity["vary"]), (trial,), task)[0]


def trial_of_result(result, record) -> Trial:
    """The identity of a trial, from the result that lists it."""
    identity = result["identity"]
    return Trial(
        architecture=result["architecture"],
        activation=result["activation"],
        config=Config(**identity["config"]),
        number=record["trial"],
        seed=record["seed"],
        seeds=record["seeds"],
        device=identity["device"],
        protocol=identity["protocol"],
        pack=identity.get("pack"),
        compiled=identity.get("compiled", False),
    )


if __name__ == "__main__":
    run(main)
