"""The claims of the 2025 report, and the studies that they are tested on."""

import json
from collections.abc import Sequence
from pathlib import Path

import claims.facts  # noqa: F401 - importing it registers its tests
from analysis.results import Cell
from claims.comparisons import TESTS, Answer, Evidence, Untested
from claims.timing import KIND
from common import json_files, storage
from common.errors import UserError
from config import Config
from config_cpu import ConfigCPU
from sensitivity.truth import FILE as CASES
from sensitivity.truth import load
from tasks.corpus import SHAKESPEARE_SHA256

ROOT = Path(__file__).resolve().parent.parent
CLAIMS = Path(__file__).with_name("claims.json")
REFERENCE = ROOT / "results" / "reference"
DOCUMENT = ROOT / "docs" / "audit.md"
SEED_BASE = 42  # the report's
# Fields that may differ from the report's configuration in each role.
FREE_FIELDS = {
    "published": {"curve_windows", "threads_per_trial"},
    "matched": {"curve_windows", "threads_per_trial", "eval_iters", "eval_interval"},
    "full size": {"curve_windows", "threads_per_trial", "eval_iters", "eval_interval", "dtype"},
}


def read_claims() -> tuple[list[dict], dict[str, dict]]:
    """(the claims of claims/claims.json, with references to tables resolved; the report's tables)."""
    content = json.loads(CLAIMS.read_text(encoding="utf-8"))

    def filled(value):
        if isinstance(value, str) and value.startswith("@"):
            return content["tables"][value[1:]]
        return {name: filled(item) for name, item in value.items()} if isinstance(value, dict) else value

    return [claim | {"figures": filled(claim["figures"])} for claim in content["claims"]], content["tables"]


def gather(studies: Sequence[Path], timing: Path | None = None) -> Evidence:
    """Reads studies, a timing file and a ground truth (possibly among the studies), and determines the role of each."""
    files = [Path(path) for path in (*studies, timing) if path is not None and Path(path).is_file()]
    if timing is not None and not Path(timing).is_file():
        raise UserError(f"{timing} is no file; audit_timing.py writes one")
    cells, notes, times = {}, [], None
    for folder in (Path(path) for path in studies if not Path(path).is_file()):
        study, results = storage.read_study(folder)
        _check_corpus(folder, study, results)
        found, reason = roles_of(study["identity"], results)
        if not found:
            notes.append(f"{folder.name} was not used: {reason}")
        for role, members in found.items():
            if role not in cells or _n_trials(members) > _n_trials(cells[role]):
                cells[role] = members
    truth = {}
    for path in files:
        if path.name == CASES.name:
            truth = load(path)
            continue
        times, note = _read_timing(path)
        notes += note
    return Evidence(cells, times, tuple(notes), truth)


def _n_trials(members):
    return max((len(cell.trials) for cell in members.values()), default=0)


def _check_corpus(folder, study, results):
    """Raises UserError unless the text is the report's."""
    found = {study["identity"]["corpus_sha256"], *(result["corpus"]["sha256"] for result in results)}
    if found != {SHAKESPEARE_SHA256}:
        label = results[0]["corpus"]["label"] if results else "another corpus"
        other = sorted(found - {SHAKESPEARE_SHA256})[0]
        raise UserError(
            f"{folder} is a study of {label} (SHA-256 {other[:12]}...), but the report's text is tiny Shakespeare"
            f" ({SHAKESPEARE_SHA256[:12]}...); only equal ones are compared"
        )


def roles_of(identity: dict, results: list[dict]) -> tuple[dict[str, dict[str, Cell]], str | None]:
    """(role -> activation -> Cell for the roles that a study can fill, None), or ({}, reason)."""
    members = {}
    for result in results:
        members.setdefault(result["architecture"], {})[result["activation"]] = Cell(result)
    if not members:
        return {}, "it holds no result yet"
    charlm = members.get("charlm", {})
    if identity["protocol"] == "published":
        reason = _differs(identity, "published")
        if reason is None and identity["seed_base"] != SEED_BASE:
            reason = f"seed_base is {identity['seed_base']}, the report's is {SEED_BASE}"
        return ({"published": charlm}, None) if reason is None else ({}, reason)
    if set(identity["vary"]) != {"init", "data", "dropout"}:
        return {}, "not everything varies between its trials"
    found = {}
    if len(members) > 1:
        found = {f"architecture {name}": cells for name, cells in members.items()}
    reasons = {role: _differs(identity, role) for role in ("matched", "full size")}
    if charlm:
        found |= {role: charlm for role, reason in reasons.items() if reason is None}
    return found, None if found else f"it is not of the report's configuration ({reasons['matched']})"


def _differs(identity, role):
    """The first field in which a study's configuration differs from what a role requires; None if there is none."""
    expected = (Config() if role == "full size" else ConfigCPU()).as_dict()
    kept = [
        {n: v for n, v in c.items() if n not in FREE_FIELDS[role]}
        for c in (expected, Config(**identity["config"]).as_dict())
    ]
    return json_files.first_difference(*kept)


def _read_timing(path):
    """(content, []), or (None, [why it is not used])."""
    content = json_files.read_json(path)
    if content.get("kind") != KIND:
        raise UserError(f"{path} is neither a study's folder nor a file of audit_timing.py")
    if difference := _differs({"config": content["config"]}, "published"):
        return None, [f"{path.name} was not used: it is not of the report's configuration ({difference})"]
    return content, []


def shipped() -> tuple[list[Path], Path | None]:
    """(the shipped studies and ground truth of the report's text that the audit can use, the shipped timing file)."""
    usable = []
    for folder in (path.parent for path in sorted(REFERENCE.glob(f"*/{storage.STUDY_FILE}"))):
        study, results = storage.read_study(folder)
        of_report = study["identity"]["corpus_sha256"] == SHAKESPEARE_SHA256
        if of_report and roles_of(study["identity"], results)[0]:
            usable.append(folder)
    usable += [CASES] if CASES.exists() else []
    timing = REFERENCE / "timing.json"
    return usable, timing if timing.exists() else None


def answer(claim: dict, evidence: Evidence) -> Answer:
    """The answer to one claim from the evidence."""
    try:
        return TESTS[claim["test"]](evidence, claim["figures"], **claim["with"])
    except Untested as reason:
        text = str(reason)
        return Answer("untested", "", text[0].upper() + text[1:] + ".")
