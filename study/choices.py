"""From the options of run_all_experiments.py to a checked Plan; raises UserError before any work begins."""

import re
from dataclasses import replace
from pathlib import Path

from architectures.sizes import FIELDS, config_for, size_name, size_of
from common.errors import UserError, unknown
from training.options import choose_compiled, choose_config, given_fields, split_rates

SOURCES = ("init", "data", "dropout", "bit")  # values of --vary
ALL_STREAMS = ("init", "data", "dropout")


def split_list(values) -> list[str]:
    """['a,b', 'c'] -> ['a', 'b', 'c'], each once; raises UserError if nothing is left."""
    names = list(dict.fromkeys(name for value in values for name in re.split(r"[,\s]+", value) if name))
    if not names:
        raise UserError("an option that takes names was given an empty value; name some, or leave it out")
    return names


def chosen_streams(values) -> tuple[str, ...]:
    """The varied sources of randomness, in the order of SOURCES; all three streams by default."""
    if values is None:
        return ALL_STREAMS
    given = split_list(values)
    if given == ["none"]:
        return ()
    if "none" in given:
        raise UserError("--vary none cannot be combined with other sources; leave out none, or the others")
    for name in given:
        if name not in SOURCES:
            raise unknown("source of randomness (--vary)", name, (*SOURCES, "none"))
    return tuple(name for name in SOURCES if name in given)


def chosen_experiments(args) -> tuple[list[tuple[str, str]], list[str]]:
    """((architecture, activation) pairs in order, notes on pairs that `all` skips)."""
    from activations import ACTIVATIONS, ANSWER, REPORT, resolve
    from architectures.registry import architectures_of, check_task, supports

    architectures = split_list(args.architectures)
    if architectures == ["all"]:
        architectures = architectures_of(args.task)
    for name in architectures:
        check_task(name, args.task)
    activations = []
    for name in split_list(args.activations):
        activations += {"report": list(REPORT), "answer": list(ANSWER), "all": list(ACTIVATIONS)}.get(name) or [
            resolve(name)
        ]
    asked_for_all = "all" in split_list(args.activations)
    experiments, notes = [], []
    for architecture in architectures:
        for activation in dict.fromkeys(activations):
            reason = supports(architecture, activation)
            if reason is None:
                experiments.append((architecture, activation))
            elif asked_for_all:
                notes.append(f"skipped: {architecture} with {activation} ({reason})")
            else:
                raise UserError(f"{architecture} cannot use {activation}: {reason}")
    return experiments, notes


def chosen_sizes(args) -> list[int]:
    """The sizes of --scale, each once; [] without --scale."""
    if not args.scale:
        return []
    if args.task != "text":
        raise UserError("--scale is for CharLM on text; leave out --scale, or --task")
    if args.protocol == "published":
        raise UserError(
            "--scale has no effect under the published protocol, whose model has a fixed size; leave it out"
        )
    for name in FIELDS:
        if getattr(args, name) is not None:
            raise UserError(f"--{name.replace('_', '-')} is determined by --scale; leave one of them out")
    return list(dict.fromkeys(size_of(name) for name in split_list(args.scale)))


def make_plan(args):
    """The checked Plan of a command line; torch is imported here, not before."""
    from study.plan import Plan

    vary = chosen_streams(args.vary)
    for name, value in (("--trials", args.trials), ("--workers", args.workers)):
        if value is not None and value < 1:
            raise UserError(f"{name} must be at least 1, but it is {value}")
    if not 0 <= args.seed_base <= 2**32 - 1 - args.trials:
        raise UserError(f"--seed-base must be from 0 to 2^32 - 1 - trials, but it is {args.seed_base}")
    if args.ray_address and args.engine != "ray":
        raise UserError("--ray-address needs --engine ray; add it, or leave out the address")
    if args.protocol == "published":
        refuse_ignored_options(args)
        args.config, args.device = "cpu", "cpu"
    elif args.eval_iters is not None:
        raise UserError(
            "--eval-iters has no effect under the matched protocol, whose evaluation is exact; leave it out"
        )
    args.learning_rate, rates = split_rates(args.learning_rate)
    results = args.results_dir or Path("results") / default_subfolder(args, vary)
    config, device = choose_config(args, stored_dtype(args, results))
    experiments, notes = chosen_experiments(args)
    check_rates(rates, experiments)
    folders = folders_of(args, results)
    probes = tuple(split_list(args.probes)) if args.probes else ()
    trials = {"n_trials": args.trials, "compiled": choose_compiled(args, device)}
    trials |= {"learning_rates": rates, "probes": probes}
    plan = Plan(
        config, device, args.protocol, args.seed_base, vary, experiments=tuple(experiments), **trials, **folders
    )
    return plan, notes


def stored_dtype(args, results) -> str | None:
    """The dtype of the existing study (of the first one in a sweep over sizes) that is resumed; None: a new study."""
    from common import json_files, storage

    folders = [results / scale_subfolder(size) for size in chosen_sizes(args)] or [results]
    paths = [folder / storage.STUDY_FILE for folder in folders if not args.fresh]
    return next((json_files.read_json(p)["identity"]["config"]["dtype"] for p in paths if p.exists()), None)


def check_rates(rates, experiments) -> None:
    """Raises UserError for a learning rate that no experiment uses, or two that apply to the same experiment."""
    names = {name for pair in experiments for name in pair}
    for name in rates:
        if name not in names:
            raise unknown("activation or architecture (--learning-rate)", name, names)
    for architecture, activation in experiments:
        if architecture in rates and activation in rates:
            raise UserError(f"--learning-rate sets both {architecture} and {activation}; set one of them")


def default_subfolder(args, vary) -> str:
    """The default subfolder for this kind of study; '' for the default study."""
    if args.protocol == "published":
        return "published"
    if args.task != "text":
        return args.task if vary == ALL_STREAMS else f"{args.task}_vary_" + ("_".join(vary) or "none")
    return "" if vary == ALL_STREAMS else "vary_" + ("_".join(vary) or "none")


def folders_of(args, results, subfolder="") -> dict[str, Path]:
    """A study's folders: those given as options plus the subfolder, else siblings of the results folder."""
    from common.storage import sibling

    given = {f"{kind}_dir": getattr(args, f"{kind}_dir") for kind in ("plots", "checkpoints")}
    others = {
        name: folder / subfolder if folder else sibling(results, name.removesuffix("_dir"))
        for name, folder in given.items()
    }
    return {"results_dir": results, **others}


def scale_subfolder(size) -> str:
    """The subfolder for one size of a sweep."""
    return f"scale_{size_name(size)}"


def at_size(args, plan, size, vocabulary_size):
    """The plan for one size of a sweep, with its own folders."""
    config = config_for(size, plan.config, vocabulary_size)
    subfolder = scale_subfolder(size)
    return replace(plan, config=config, **folders_of(args, plan.results_dir / subfolder, subfolder))


def refuse_ignored_options(args):
    """Raises UserError for an option that the published protocol would ignore."""
    from training import published_protocol

    if args.compile == "on":
        raise UserError("--compile on has no effect under the published protocol, which is eager; leave it out")
    if args.probes:
        raise UserError("--probes has no effect under the published protocol; leave it out")
    if args.task != "text":
        raise UserError("the published protocol supports the text task only; leave out --task")
    if args.vary is not None:
        raise UserError("--vary has no effect under the published protocol, which has one generator; leave it out")
    if args.config == "gpu" or args.device not in ("auto", "cpu"):
        raise UserError("the published protocol runs on the CPU only; leave out --config and --device")
    if args.dtype not in (None, "float32"):
        raise UserError(f"the published protocol computes in float32, but --dtype is {args.dtype}")
    for name in given_fields(args):
        if name not in (*published_protocol.FIELDS, "dtype"):
            raise UserError(f"--{name.replace('_', '-')} has no effect under the published protocol; leave it out")
    if args.engine == "ray":
        raise UserError("the published protocol needs the local engine; leave out --engine ray")
    others = [name for name in split_list(args.architectures) if name != "charlm"]
    if others:
        raise UserError(f"the published protocol supports charlm only, but --architectures names {others[0]}")
