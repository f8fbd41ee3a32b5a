"""JSON files with a kind and a checksum of their content, and the first difference of two of them.

The checksum detects damage, not forgery.
"""

import functools
import hashlib
import json
from pathlib import Path

from common.errors import RunError
from common.files import read_regular, write_atomically

SCHEMA_VERSION = 2
MOST_JSON_BYTES = 2**29  # this program writes no larger or deeper file
MOST_DEPTH = 32
STUDY, RESULT, SUMMARY = "a study", "a result", "a summary"  # kinds of JSON files

# Fields that may differ between two identical results. Values per window are compared separately: which pairs share a
# file depends on the order in which trials ended.
VOLATILE = ("training_time_s", "evaluation_time_s", "environment", "provenance", "values")


def stable(value):
    """`value` without the fields that may differ between identical results, such as times and environments."""
    if isinstance(value, dict):
        return {name: stable(item) for name, item in value.items() if name not in VOLATILE}
    if isinstance(value, list):
        return [stable(item) for item in value]
    return value


def write_json(path: Path, content: dict) -> None:
    """Writes `content` with a checksum in `provenance`. NaN and infinity raise an error: a missing value is null."""
    content = dict(content)
    provenance = {k: v for k, v in content.get("provenance", {}).items() if k != "checksum"}
    content["provenance"] = provenance
    content["provenance"] = {**provenance, "checksum": _json_checksum(content)}
    write_atomically(path, _json_text(content).encode())


def _json_text(content):
    """JSON with one line per object of a list: fast to write for many pairs, and suited to line-based diffs."""
    compact = functools.partial(json.dumps, allow_nan=False, ensure_ascii=False)
    fields = []
    for name, value in content.items():
        if isinstance(value, list) and any(isinstance(item, dict) for item in value):
            text = "[\n  " + ",\n  ".join(map(compact, value)) + "\n ]"
        else:
            text = compact(value, indent=1).replace("\n", "\n ")
        fields.append(f" {compact(name)}: {text}")
    return "{\n" + ",\n".join(fields) + "\n}\n"


def _json_checksum(content):
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()


def read_json(path: Path, kind: str | None = None) -> dict:
    """Reads a file written by `write_json`.

    Parameters
    ----------
    path : Path
    kind : str, optional
        STUDY, RESULT or SUMMARY, if only this kind is accepted.

    Returns
    -------
    dict

    Raises
    ------
    RunError
        The file is missing, damaged, of another kind, or of a later schema_version.
    """
    try:
        content = json.loads(read_regular(path, MOST_JSON_BYTES).decode("utf-8"))
        check_depth(content)
        provenance = dict(content["provenance"])
        checksum = provenance.pop("checksum")
        intact = checksum == _json_checksum({**content, "provenance": provenance})
    except FileNotFoundError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        intact = False
    if not intact:
        raise RunError(
            f"{path} is damaged or was edited (checksum mismatch), or was not written by this program; it was left"
            " unchanged; move it away, or restore it from a copy"
        )
    if content.get("schema_version", 0) > SCHEMA_VERSION:
        raise RunError(
            f"{path} has schema_version {content['schema_version']}, but this program supports up to {SCHEMA_VERSION}"
        )
    if kind is not None and (found := kind_of_json(content)) != kind:
        raise RunError(f"{path} is {found}, not {kind}; it was left unchanged; move it away")
    return content


def kind_of_json(content: dict) -> str:
    """STUDY, RESULT or SUMMARY; inferred for older files, which do not record it."""
    return content.get("kind", RESULT if "trials" in content else SUMMARY if "experiments" in content else STUDY)


def check_depth(content):
    """Raises ValueError if JSON is nested too deeply for recursive functions."""
    level = [content]
    for _ in range(MOST_DEPTH):
        level = [
            item
            for value in level
            for item in (value.values() if isinstance(value, dict) else value)
            if isinstance(item, dict | list)
        ]
        if not level:
            return
    raise ValueError("nested too deeply")


def first_difference(expected, found, name: str = "") -> str | None:
    """The first difference of two JSON values, as 'config.n_embd: 128 against 64'; None if they are equal."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in [*expected, *(key for key in found if key not in expected)]:
            path = f"{name}.{key}" if name else str(key)
            if key not in expected:
                return f"{path}: missing against {found[key]!r}"
            if key not in found:
                return f"{path}: {expected[key]!r} against missing"
            if difference := first_difference(expected[key], found[key], path):
                return difference
        return None
    if isinstance(expected, list) and isinstance(found, list):
        if len(expected) != len(found):
            if all(isinstance(entry, (str, int, float)) for entry in (*expected, *found)):
                sides = (", ".join(map(str, side)) or "nothing" for side in (expected, found))
                return f"{name}: {' against '.join(sides)}"
            return f"{name}: {len(expected)} entries against {len(found)}"
        for index, (left, right) in enumerate(zip(expected, found)):
            if difference := first_difference(left, right, f"{name}[{index}]"):
                return difference
        return None
    return None if expected == found else f"{name}: {expected!r} against {found!r}"
