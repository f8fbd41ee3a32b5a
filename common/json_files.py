"""JSON files of this program: with a checksum of their content and a kind, and how two of them differ.

A checksum shows damage, not forgery: whoever edits a file can make a new one.
"""

import functools
import hashlib
import json
from pathlib import Path

from common.errors import RunError
from common.files import read_regular, write_atomically

SCHEMA_VERSION = 2
MOST_JSON_BYTES = 2**29  # a file that is larger, or nested deeper, is none of this program's
MOST_DEPTH = 32
STUDY, RESULT, SUMMARY = "a study", "a result", "a summary"  # kinds of JSON files

# What may differ between two results that are identical in the sense of DESIGN.md's first promise. Values per window are
# compared by their names; which pairs share a file depends on the order in which trials ended.
VOLATILE = ("training_time_s", "evaluation_time_s", "environment", "provenance", "values")


def stable(value):
    """`value` without what may differ between identical results (times and environments)."""
    if isinstance(value, dict):
        return {name: stable(item) for name, item in value.items() if name not in VOLATILE}
    if isinstance(value, list):
        return [stable(item) for item in value]
    return value


def write_json(path: Path, content: dict) -> None:
    """Writes `content` and a checksum of it, in `provenance`. NaN and infinity are refused: a missing value is null."""
    content = dict(content)
    provenance = {k: v for k, v in content.get("provenance", {}).items() if k != "checksum"}
    content["provenance"] = provenance
    content["provenance"] = {**provenance, "checksum": _json_checksum(content)}
    write_atomically(path, _json_text(content).encode())


def _json_text(content):
    """JSON with an object of a list on each line: a study of many pairs is written quickly, and differs by lines."""
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
    """The content of a file that `write_json` wrote.

    Args:
      kind: STUDY, RESULT or SUMMARY, where only one of them will do; its fields are checked as well.

    Raises:
      RunError: it is damaged, of another kind, or of a later program; the message names it.
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
            f"{path} is damaged or was edited (its checksum does not fit), or is no file of this program, and was left as"
            " it is; move it away, or restore it from a copy"
        )
    if content.get("schema_version", 0) > SCHEMA_VERSION:
        raise RunError(
            f"{path} has schema_version {content['schema_version']}, but this program knows up to {SCHEMA_VERSION}"
        )
    if kind is not None and (found := kind_of_json(content)) != kind:
        raise RunError(f"{path} is {found}, not {kind}, and was left as it is; move it away")
    return content


def kind_of_json(content: dict) -> str:
    """STUDY, RESULT or SUMMARY; older files do not say which."""
    return content.get("kind", RESULT if "trials" in content else SUMMARY if "experiments" in content else STUDY)


def check_depth(content):
    """A ValueError where JSON is nested more deeply than any file of this program: recursion would end in a traceback."""
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
    """Where two JSON values first differ: 'config.n_embd: 128 against 64'; None where they are equal."""
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
