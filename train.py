"""One trial: the seeded training loop, and a script that trains one, verifies one, or writes text with one.

    python train.py --activation gelu                                # train one trial, save its checkpoint
    python train.py --verify results/charlm_relu.json --trial 3      # train it again: the same bits?
    python train.py --sample checkpoints/charlm_relu/trial_1.pt      # text from a trained model

A trial is a pure function of its `Trial` and the corpus. Each draw has an address (randomness.py), so a trial that is
resumed needs weights, optimizer state and step, and no generator's state.
"""

import math
import time
from dataclasses import dataclass
from pathlib import Path

import cli
import randomness
from config import Config
from errors import RunError, UserError

SAVE_EVERY_S = 60.0  # on a CPU a running trial also saves at every point of its curves
REPORT_EVERY_S = 0.5


@dataclass(frozen=True)
class Trial:
    """The identity of a trial, but for the corpus.

    seeds: the seed of each stream (init, data, dropout), and of the flipped bit or None.
    pack: how many trials are trained together as one batched model (packed.py); None: each alone.
    compiled: whether torch.compile makes the training step.
    """

    architecture: str
    activation: str
    config: Config
    number: int  # from 1
    seed: int
    seeds: dict[str, int | None]
    device: str = "cpu"
    protocol: str = "matched"
    pack: int | None = None
    compiled: bool = False

    @property
    def name(self):
        return f"{self.architecture}_{self.activation}"


def arithmetic(pack, compiled) -> dict:
    """What an identity says of trials whose step rounds otherwise than that of an ordinary one; {} where none does."""
    return ({"pack": pack} if pack else {}) | ({"compiled": True} if compiled else {})


def stream_seeds(seed_base: int, number: int, vary) -> dict[str, int | None]:
    """The seed of each stream in trial `number`: its own where the stream is varied, else trial 1's.

    The bit is flipped only where it is varied.
    """
    own = seed_base + number - 1
    seeds = {stream: own if stream in vary else seed_base for stream in ("init", "data", "dropout")}
    return seeds | {"bit": own if "bit" in vary else None}


class Interrupted(Exception):
    """The trial was asked to stop; it has saved what it needs to go on."""


def prepare_torch(config):
    """Sets what decides a sum's last bits: the number of threads, and deterministic algorithms.

    To be called before the first computation on a GPU: cuBLAS reads its setting once, when it starts.
    """
    import os

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import torch

    torch.set_num_threads(config.threads_per_trial)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # a pass over memory that changes no result
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False  # partial sums stay in float32
    torch.backends.cudnn.allow_tf32 = False


def build(trial: Trial, vocabulary_size: int):
    """The model of a trial with its initial weights, on its device."""
    from architectures import build_model, initialize

    model = build_model(trial.architecture, trial.activation, trial.config, vocabulary_size)
    initialize(model, trial.seeds["init"], flip_bit_seed=trial.seeds["bit"])
    return model.to(trial.device)


def make_optimizer(parameters, config):
    """AdamW with PyTorch's other defaults."""
    import torch

    return torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)


def loss_of(logits, targets):
    """Mean cross-entropy in nats, computed in float32 at least; logits (B, T, V), targets (B, T)."""
    import torch
    from torch.nn import functional as F

    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(wide.flatten(0, 1), targets.flatten())


def environment_of(trial) -> dict:
    """What a trial runs on: versions, hardware and threads."""
    from provenance import environment

    return environment(trial.device, trial.config.threads_per_trial, trial.compiled)


def run_trial(trial: Trial, corpus, partial_path=None, report=None, should_stop=None) -> dict:
    """Trains and evaluates one trial under the matched protocol.

    Args:
      trial: what to train.
      corpus: a corpus.Corpus.
      partial_path: where the running trial saves itself, and from where it goes on; None saves nothing.
      report: called as report({trial, step, loss}) now and then, report({trial, resumed}) with the step from which
        a trial goes on, report({warning}).
      should_stop: called after each step; when it returns true, the trial saves itself and raises Interrupted.

    Returns:
      {record: the trial's entry in a result, weights: name -> tensor (CPU), curve: list of (step, (Wc, T, V)
      log-probabilities), log_probabilities (W, T, V), window_loss (W,)}; all but the record are None when it diverged.
    """
    return run_together(Alone, (trial,), (trial,), corpus, partial_path, report, should_stop)[0]


def run_together(make_learner, trials, wanted, corpus, partial_path=None, report=None, should_stop=None) -> list[dict]:
    """Trains trials step by step together, and evaluates those that are wanted; one of them is a trial alone.

    Args:
      make_learner: Alone, or packed.Stack: (trials, corpus) -> what the training loop trains.
      trials: of one architecture, activation, configuration and device.
      wanted: those of them whose outcomes are asked for.
      corpus, partial_path, report, should_stop: as for `run_trial`; the state at partial_path is that of all trials.

    Returns:
      What `run_trial` gives, for each wanted trial. A trial's time is its share of the time of all.
    """
    import evaluate

    config, device = trials[0].config, trials[0].device
    prepare_torch(config)
    data = evaluate.evaluation_data(corpus, config, device)
    learner = make_learner(trials, corpus)
    state = _load_partial(partial_path, trials, corpus, learner, report)
    _train(trials, corpus, data, learner, state, partial_path, report, should_stop)
    return [
        _outcome(trial, corpus, data, learner.model(slot), state, state["members"][slot])
        for slot, trial in enumerate(trials)
        if trial in wanted
    ]


class Alone:
    """What the training loop trains where a trial is trained alone; packed.Stack is its counterpart for several."""

    def __init__(self, trials, corpus):
        (self.trial,) = trials
        self.tokens, self.offsets = training_text(self.trial, corpus)
        self._model = build(self.trial, corpus.vocabulary_size).train()
        self.optimizer = make_optimizer(self._model.parameters(), self.trial.config)

    def model(self, slot):
        """The model of the trial in a slot."""
        return self._model

    def update(self, step):
        """One step of training; returns each trial's loss before it."""
        import evaluate
        from model import address_dropout

        trial = self.trial
        index = without_waiting(batch_starts(trial, step, self.tokens), trial.device)[:, None] + self.offsets
        address_dropout(self._model, trial.seeds["dropout"], step)
        with evaluate.autocast(trial.config, trial.device):
            logits = self._model(self.tokens[index])
        loss = loss_of(logits, self.tokens[index + 1])
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return (loss.detach(),)

    def state(self):
        """What the learner needs to go on from here."""
        return {"model": self._model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load(self, state):
        """Goes on from what `state` gave."""
        self._model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])


def training_text(trial, corpus):
    """(the training split's characters, the offsets 0 to T - 1), int64, on the trial's device."""
    import torch

    tokens = torch.from_numpy(corpus.train.astype("int64")).to(trial.device)
    return tokens, torch.arange(trial.config.block_size, device=trial.device)


def batch_starts(trial, step, tokens):
    """(B,) int64 on the CPU: where the sequences of a trial's batch start."""
    import corpus as text

    generator = randomness.generator(trial.seeds["data"], "data", step)
    return text.batch_starts(generator, len(tokens), trial.config.block_size, trial.config.batch_size)


def _outcome(trial, corpus, data, model, state, member):
    """What `run_trial` returns, of a trial whose training has ended."""
    import torch

    import evaluate

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
    final = evaluate.final_evaluation(model, data, trial.config)
    record["continuations"] = evaluate.continuation_texts(model, data, corpus, trial.config)
    record["evaluation_time_s"] += time.perf_counter() - started
    record |= {name: final[name] for name in ("train_loss", "val_loss", "train_accuracy", "val_accuracy")}
    if learned := learned_activation_parameters(model):
        record["activation_parameters"] = learned
    from storage import weights_sha256

    weights = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
    record["weights_sha256"] = weights_sha256(weights)
    if not all(math.isfinite(record[name]) for name in ("train_loss", "val_loss")):
        record |= {"status": "diverged", "train_loss": None, "val_loss": None, "reason": "the final loss is not finite"}
        return outcome
    return outcome | {
        "weights": weights,
        "curve": [(step, torch.from_numpy(log_p)) for step, log_p in member["curve"]],
        "log_probabilities": final["log_probabilities"],
        "window_loss": final["window_loss"],
    }


def _train(trials, corpus, data, learner, state, partial_path, report, should_stop):
    """The training loop: from state["step"] to max_iters, or until no trial has a finite loss."""
    config, device, members = trials[0].config, trials[0].device, state["members"]
    # Reading a loss makes the program wait for a GPU; there, the points of the curves notice and report.
    reads_each_loss = device == "cpu"
    reported = saved = time.perf_counter()
    for step in range(state["step"], config.max_iters + 1):
        if step % config.eval_interval == 0 or step == config.max_iters:
            measured = _add_points(step, learner, data, state, config, device)
            # Between two points a GPU computes less long than it takes to write its state.
            due = reads_each_loss or time.perf_counter() - saved > SAVE_EVERY_S
            if measured and due and 0 < step < config.max_iters:
                _save_partial(partial_path, trials, corpus, learner, state, report)
                saved = time.perf_counter()
            if step == config.max_iters or not _finite(members):
                return
        started = time.perf_counter()
        losses = learner.update(step)
        state["step"] = step + 1
        now = time.perf_counter()
        state["training_time_s"] += now - started
        if reads_each_loss:
            for member, loss in zip(members, losses):
                _note_loss(member, loss.item(), state["step"])
        if not _finite(members):
            return
        if report and now - reported > REPORT_EVERY_S:
            for trial, member in zip(trials, members):
                report({"trial": trial.number, "step": step + 1, "loss": member["loss"]})
            reported = now
        stop = should_stop is not None and should_stop()
        if stop or now - saved > SAVE_EVERY_S:
            _save_partial(partial_path, trials, corpus, learner, state, report)
            saved = time.perf_counter()
        if stop:
            raise Interrupted


def _finite(members):
    """The members whose loss is finite still."""
    return [member for member in members if member["diverged_at"] is None]


def _note_loss(member, loss, step):
    """Remembers a trial's last loss, and the step at which it stopped being finite."""
    if member["diverged_at"] is None and not math.isfinite(loss):
        member["diverged_at"] = step
    elif member["diverged_at"] is None:
        member["loss"] = loss


def _add_points(step, learner, data, state, config, device):
    """Measures the point of each curve that has none at this step yet; returns whether there was one to measure."""
    import evaluate

    slots = [
        slot
        for slot, member in enumerate(state["members"])
        if member["diverged_at"] is None and (not member["history"] or member["history"][-1]["step"] < step)
    ]
    if not slots:
        return False
    state["training_time_s"] += wait_for(device)
    started = time.perf_counter()
    for slot in slots:
        member = state["members"][slot]
        train_loss, val_loss, log_p = evaluate.curve_point(learner.model(slot), data, config)
        _note_loss(member, train_loss if math.isfinite(val_loss) else val_loss, step)
        if member["diverged_at"] is None:
            member["history"].append({"step": step, "train_loss": train_loss, "val_loss": val_loss})
            member["curve"].append((step, log_p))
    state["evaluation_time_s"] += time.perf_counter() - started
    return True


def without_waiting(values, device):
    """A numpy array on a device; a GPU takes it from pinned memory when it gets there, and nobody waits."""
    import torch

    tensor = torch.from_numpy(values)
    if torch.device(device).type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def wait_for(device) -> float:
    """Seconds until a device has done all it was given: a GPU is handed its steps faster than it computes them."""
    import torch

    started = time.perf_counter()
    kind = torch.device(device).type
    if kind != "cpu":
        getattr(torch, kind).synchronize()
    return time.perf_counter() - started


def learned_activation_parameters(model) -> dict | None:
    """Name -> values of the parameters that belong to activations (PReLU, APL); None where there are none."""
    names = [n for n, module in model.named_modules() if getattr(module, "is_activation", False)]
    found = {
        name: parameter.detach().flatten().tolist()
        for name, parameter in model.named_parameters()
        if any(name.startswith(f"{prefix}.") for prefix in names)
    }
    return found or None


def partial_identity(trial, corpus):
    """A running trial goes on only from a state of exactly this trial."""
    from architectures import reader_sources

    return {
        "protocol": trial.protocol,
        "architecture": trial.architecture,
        "activation": trial.activation,
        **reader_sources(trial.architecture, trial.activation),
        "config": trial.config.as_dict(),
        "seeds": trial.seeds,
        "device": trial.device,
        "corpus_sha256": corpus.text_sha256,
        "numerics_version": randomness.NUMERICS_VERSION,
        **arithmetic(trial.pack, trial.compiled),
    }


def _save_partial(path, trials, corpus, learner, state, report):
    import torch

    import storage

    members = [
        {**member, "curve": [(step, torch.from_numpy(log_p)) for step, log_p in member["curve"]]}
        for member in state["members"]
    ]
    content = {**state, "learner": learner.state(), "members": members}
    storage.save_state(path, [partial_identity(trial, corpus) for trial in trials], content, report)


def _load_partial(path, trials, corpus, learner, report):
    """The state from which trials go on: that of these trials at `path`, or the beginning."""
    import storage

    members = [{"history": [], "curve": [], "diverged_at": None, "loss": None} for _ in trials]
    state = {"step": 0, "training_time_s": 0.0, "evaluation_time_s": 0.0, "members": members}
    content = storage.load_state(path, [partial_identity(trial, corpus) for trial in trials], report)
    if content is None:
        return state
    learner.load(content["learner"])
    for trial in trials if report else ():
        report({"trial": trial.number, "resumed": content["step"]})
    for member in content["members"]:
        member["curve"] = [(step, log_p.numpy()) for step, log_p in member["curve"]]
    return {name: content[name] for name in state}


# --- the script -----------------------------------------------------------------------------------------------------


def parser():
    p = cli.Parser(prog="train.py", description="Train one trial, verify one of a study, or sample text from one.")
    p.add_argument("--architecture", help="name of the architecture (default: that of --architecture-file, or charlm)")
    p.add_argument("--activation", help="name of the activation (default: that of --activation-file, or relu)")
    cli.add_file_options(p)
    p.add_argument("--seed", type=int, default=42, help="seed of every stream (default: %(default)s)")
    p.add_argument("--corpus", default="auto", help="auto, shakespeare, pydoc or a text file (default: %(default)s)")
    p.add_argument("--output", type=Path, help="where to save the checkpoint (default: checkpoints/single/...)")
    p.add_argument("--verify", type=Path, metavar="RESULT.json", help="train a trial of this result again and compare")
    p.add_argument("--trial", type=int, default=1, help="which trial to verify (default: %(default)s)")
    p.add_argument("--sample", type=Path, metavar="CHECKPOINT", help="write text from this trained model")
    p.add_argument("--prompt", default="\n", help="what the sampled text begins with (default: a new line)")
    p.add_argument("--length", type=int, default=500, help="characters to sample (default: %(default)s)")
    p.add_argument("--temperature", type=float, default=1.0, help="0 takes the likeliest (default: %(default)s)")
    cli.add_compile_option(p)
    cli.add_config_options(p)
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
    _, own = cli.load_user_files(args)
    if args.sample:
        return sample(args, own)
    if args.verify:
        import verify

        return verify.verify(args.verify, args.trial, args.corpus, own)
    return train_one(args, own)


def train_one(args, own) -> int:
    import torch
    from tqdm import tqdm

    import corpus as text
    import storage
    from activations import resolve

    config, device = cli.choose_config(args)
    corpus = text.load_corpus(args.corpus)
    text.check_length(corpus, config.block_size)
    architecture = args.architecture or own.get("architecture", "charlm")
    activation = resolve(args.activation or own.get("activation", "relu"))
    seeds = stream_seeds(args.seed, 1, ("init", "data", "dropout"))
    trial = Trial(
        architecture, activation, config, 1, args.seed, seeds, device, compiled=cli.choose_compiled(args, device)
    )
    cli.check_user_files(own, [(architecture, activation)], config)
    build(trial, corpus.vocabulary_size)  # complains before any work begins
    if trial.compiled:
        import packed

        packed.check(architecture, activation, config, corpus.vocabulary_size, compiled=True)
    output = args.output or Path("checkpoints/single") / f"{trial.name}_seed_{args.seed}.pt"
    if output.exists():
        raise UserError(f"{output} exists already; move it away or choose another --output")
    storage.check_writable(output.parent)
    with tqdm(total=config.max_iters, unit="step", disable=None) as bar:

        def show(event):
            if "step" in event:
                bar.update(event["step"] - bar.n)
                bar.set_postfix(loss=f"{event['loss']:.4f}")

        outcome = run_protocol(trial, corpus, report=show)
        bar.update(config.max_iters - bar.n)
    record = outcome["record"]
    for point in record["history"]:
        print(
            f"step {point['step']:6d}  train loss {point['train_loss']:.4f}  val loss {point['val_loss']:.4f}"
            "  (nats per character, curve windows)"
        )
    if record["status"] != "complete":
        raise RunError(f"the trial diverged: {record['reason']}; try a smaller --learning-rate")
    storage.write_checkpoint(output, checkpoint_content(trial, corpus, outcome))
    print(
        f"{trial.name}, seed {args.seed}, {corpus.label}: train loss {record['train_loss']:.4f},"
        f" val loss {record['val_loss']:.4f}, val accuracy {record['val_accuracy']:.2%} (all windows);"
        f" {record['training_time_s']:.1f} s training, {torch.get_num_threads()} thread(s)"
    )
    print(f"weights_sha256 {record['weights_sha256']}\nsaved as {output}")
    return 0


def checkpoint_content(trial: Trial, corpus, outcome) -> dict:
    """What a final checkpoint holds: weights under "model", and everything needed to rebuild and compare the model."""
    from architectures import reader_sources

    return {
        "model": outcome["weights"],
        "architecture": trial.architecture,
        "activation": trial.activation,
        **reader_sources(trial.architecture, trial.activation),
        "config": trial.config.as_dict(),
        "vocabulary": corpus.vocabulary,
        "corpus": {"label": corpus.label, "sha256": corpus.text_sha256},
        "trial": trial.number,
        "seeds": trial.seeds,
        "numerics_version": randomness.NUMERICS_VERSION,
        **arithmetic(trial.pack, trial.compiled),
        "weights_sha256": outcome["record"]["weights_sha256"],
        "curve": outcome["curve"],
    }


def load_model(path):
    """(model, checkpoint content) of a final checkpoint, on the CPU, in evaluation mode."""
    from architectures import build_model, check_reader_sources

    try:
        from storage import read_checkpoint

        content = read_checkpoint(path)
    except FileNotFoundError:
        raise UserError(f"there is no checkpoint {path}") from None
    if "vocabulary" not in content:
        raise UserError(f"{path} is the state of an unfinished trial, not a trained model")
    check_reader_sources(content)
    config = Config(**content["config"])
    model = build_model(content["architecture"], content["activation"], config, len(content["vocabulary"]))
    model.load_state_dict(content["model"])
    return model.eval(), content


def sample(args, own) -> int:
    import corpus as text
    import evaluate

    if args.length < 1 or not args.temperature >= 0 or not args.prompt:
        raise UserError("--length must be at least 1, --temperature not negative, and --prompt not empty")
    model, content = load_model(args.sample)
    cli.check_own_are_used(own, [(content["architecture"], content["activation"])])
    config = Config(**content["config"])
    prepare_torch(config)
    alphabet = text.Corpus(content["corpus"]["label"], "", content["vocabulary"], None, 0)
    print(evaluate.sample_text(model, alphabet, config, args.prompt, args.length, args.temperature, seed=args.seed))
    return 0


def run_protocol(trial, corpus, **hooks) -> dict:
    """`run_trial`, or its counterpart under the published protocol, or where the step is compiled."""
    if trial.protocol == "published":
        import published_trials

        return published_trials.run_trial(trial, corpus, **hooks)
    if trial.compiled:
        import packed

        return packed.run_pack((trial,), (trial,), corpus, **hooks)[0]
    return run_trial(trial, corpus, **hooks)


if __name__ == "__main__":
    cli.run(main)
