"""One command repeats any trial of a result, and says whether it gives the same bits here (`train.py --verify`).

A module of its own because it stands on everything that train.py does, and reads results, of which training knows
nothing.
"""

from pathlib import Path

import cli
import randomness
import storage
import train
from config import Config
from errors import UserError


def verify(path: Path, number: int, corpus: str, own: dict[str, str]) -> int:
    """Trains a trial of a result again, and says whether it is the same. Returns 0, or 1: the first difference is named.

    Args:
      path: the result.
      number: of the trial.
      corpus: as for --corpus; "auto" is the result's own.
      own: kind -> name of what a reader's files define.
    """
    from architectures import check_reader_sources
    from corpus import load_recorded

    if not path.exists():
        raise UserError(f"there is no result {path}")
    result = storage.read_json(path)
    if "trials" not in result or "identity" not in result:
        raise UserError(f"{path} is not a result of one architecture and activation")
    numbers = [record["trial"] for record in result["trials"]]
    if number not in numbers:
        raise UserError(f"{path} has no trial {number}; it has {', '.join(map(str, numbers))}")
    expected = result["trials"][numbers.index(number)]
    if result["numerics_version"] != randomness.NUMERICS_VERSION:
        raise UserError(
            f"{path} was made with numerics_version {result['numerics_version']}, and this program has"
            f" {randomness.NUMERICS_VERSION}; check out commit {result['provenance']['git_commit']}"
        )
    check_reader_sources(result)
    cli.check_own_are_used(own, [(result["architecture"], result["activation"])])
    trial = trial_of_result(result, expected)
    cli.check_device(trial.device)
    text = load_recorded(result["corpus"], corpus)
    print(f"training {trial.name}, trial {trial.number} again ({trial.config.max_iters} steps)", flush=True)
    found = train_again(trial, result["identity"], text)["record"]
    expected = {**expected, "checkpoint": None}
    difference = storage.first_difference(storage.stable(expected), storage.stable(found))
    if difference is None:
        print(f"identical: weights_sha256 {found['weights_sha256']}, and every loss, accuracy and text")
        return 0
    print(f"different: {difference} (stored against now)")
    here = train.environment_of(trial)
    elsewhere = storage.first_difference(expected["environment"], here)
    if elsewhere:
        print(f"the environments differ, and bits are promised within one only: {elsewhere}")
    return 1


def train_again(trial, identity, corpus) -> dict:
    """The outcome of a study's trial, from the study's identity: a packed one needs its whole pack."""
    if trial.pack is None:
        return train.run_protocol(trial, corpus)
    import packed

    return packed.run_pack(packed.pack_of(trial, identity["seed_base"], identity["vary"]), (trial,), corpus)[0]


def trial_of_result(result, record) -> train.Trial:
    """The identity of a trial, from the result that lists it."""
    identity = result["identity"]
    return train.Trial(
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
