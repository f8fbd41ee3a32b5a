"""Identities of studies and experiments: what they consist of, and comparing them.

A stored identity may lack configuration fields that were added later. Their defaults mean the old behaviour (see
config.py), so missing fields are filled in before identities are compared.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from common import array_files, json_files, storage
from common.errors import RunError, UserError
from common.json_files import first_difference
from config import Config


def complete(identity: dict) -> dict:
    """An identity with `compiled` (first, so that a difference names it) and every configuration field, defaults filled in."""
    return {"compiled": False, **identity, "config": Config(**identity["config"]).as_dict()}


def difference_of_identities(stored: dict, found: dict) -> str | None:
    """The first difference of two identities, as 'config.n_embd: 128 against 64'; None if they are equal."""
    return first_difference(complete(stored), complete(found))


def difference_of_studies(stored: dict, found: dict) -> str | None:
    """Like `difference_of_identities`, but learning rates of new activations or architectures may be added."""
    rates, given = stored.get("learning_rates", {}), found.get("learning_rates", {})
    common = [{name: value for name, value in one.items() if name in rates and name in given} for one in (rates, given)]
    one, other = ({name: value for name, value in i.items() if name != "learning_rates"} for i in (stored, found))
    return difference_of_identities(one, other) or first_difference(*common, "learning_rates")


def config_of_experiment(
    config: Config, learning_rates: dict[str, float], architecture: str, activation: str
) -> Config:
    """A study's configuration with the learning rate of this activation or architecture, if one is given."""
    rate = learning_rates.get(activation, learning_rates.get(architecture))
    return config if rate is None else config.replace(learning_rate=rate)


def identity_of(study: dict, architecture: str, activation: str) -> dict:
    """The identity of one experiment: the study's, with the complete configuration of this experiment."""
    config = config_of_experiment(Config(**study["config"]), study.get("learning_rates", {}), architecture, activation)
    return {**{name: value for name, value in study.items() if name != "learning_rates"}, "config": config.as_dict()}


def check_belongs(path: Path, found: dict, expected: dict) -> None:
    """Raises RunError if the identity stored in a file is not the expected one."""
    try:
        difference = difference_of_identities(expected["identity"], found["identity"]) or json_files.first_difference(
            *({name: value for name, value in about.items() if name != "identity"} for about in (expected, found))
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        difference = "it has no valid identity"
    if difference:
        raise RunError(f"{path} belongs to something else ({difference}); move it away")


def read_belonging(path: Path, about: dict) -> dict:
    """Name -> memory-mapped array, from a file whose stored identity is `about`.

    Raises
    ------
    FileNotFoundError
    RunError
        The file is damaged or belongs to something else.
    """
    found = array_files.read_arrays(path, mapped=True)
    check_belongs(path, found.about, about)
    return found.arrays


# --- a study's folder ------------------------------------------------------------------------------------------------


def open_study(folder: Path, identity: dict, provenance: dict, option: str = "--results-dir") -> None:
    """Writes study.json, or checks the identity in an existing one and adds learning rates that it lacks."""
    path = Path(folder) / storage.STUDY_FILE
    content = {"kind": json_files.STUDY, "schema_version": json_files.SCHEMA_VERSION}
    content |= {"identity": identity, "provenance": provenance}
    if holds_study(folder, identity, option):
        known = json_files.read_json(path, json_files.STUDY)
        rates = known["identity"].get("learning_rates", {})
        if identity.get("learning_rates", {}).items() <= rates.items():
            return
        content = known | {"identity": known["identity"] | {"learning_rates": rates | identity["learning_rates"]}}
    json_files.write_json(path, content)


def holds_study(folder: Path, identity: dict, option: str = "--results-dir") -> bool:
    """Whether a folder holds the study of this identity; raises UserError, naming `option`, if it holds another."""
    path = Path(folder) / storage.STUDY_FILE
    advice = f"choose another {option}, or set the old study aside with --fresh"
    if not os.path.lexists(path):
        if next(results_in(folder), None):
            raise UserError(f"{folder} holds results but no {storage.STUDY_FILE}; {advice}")
        return False
    if difference := difference_of_studies(json_files.read_json(path, json_files.STUDY)["identity"], identity):
        stored = difference.replace(" against ", " there, ", 1)
        raise UserError(
            f"{folder} holds a study with other settings ({stored} asked for); repeat its options, {advice}"
        )
    return True


def results_in(folder: Path) -> Iterator[Path]:
    """The result files in a folder, including damaged ones if their names are of this project's form."""
    for path in sorted(Path(folder).glob("*_*.json")):
        if path.name != storage.SUMMARY_FILE and (_has_known_name(path.stem) or _is_result(path)):
            yield path


def _has_known_name(name):
    """Whether a name is <architecture>_<activation> with built-in names."""
    import activations
    from architectures.registry import BUILT_IN

    return any(
        activations.is_known(name.removeprefix(f"{architecture}_"))
        for architecture in BUILT_IN
        if name.startswith(f"{architecture}_")
    )


def _is_result(path):
    """Whether a file holds the result that its name claims."""
    try:
        content = json_files.read_json(path)
    except RunError:
        return False
    return path.stem == f"{content.get('architecture')}_{content.get('activation')}"
