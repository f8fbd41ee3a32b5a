"""Claims about the format of results: code, docs/results-format.md, shipped files and new files agree on every field."""

import json
import re
from pathlib import Path
from types import NoneType
from typing import get_args, get_type_hints, is_typeddict

import pytest
import studies

import metrics
from common import json_files, results_format, storage
from common.errors import RunError
from common.results_format import HistoryPoint, Pair, Result, StudyFile, SummaryFile, mismatches, type_name
from config import Config
from config_cpu import ConfigCPU

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs" / "results-format.md").read_text(encoding="utf-8")
SHAPES = {name: kind for name, kind in vars(results_format).items() if is_typeddict(kind)}
REFERENCE = ROOT / "results" / "reference"
SHIPPED = sorted(path for path in REFERENCE.glob("*/*.json") if (path.parent / storage.STUDY_FILE).exists())
FILE_SHAPES = {storage.STUDY_FILE: StudyFile, storage.SUMMARY_FILE: SummaryFile}


def shape_of(path: Path):
    return FILE_SHAPES.get(path.name, Result)


def described(name: str) -> dict[str, tuple[str, str]]:
    """Field -> (type, when it is null or absent) of the table below a heading of the document."""
    section = re.search(rf"^### {name}\n(.*?)(?=^##|\Z)", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert section, f"docs/results-format.md has no section {name}"
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in section[1].splitlines() if line[:1] == "|"
    ]
    assert rows[0] == ["field", "type", "unit", "meaning", "null or absent"]
    assert all(len(row) == 5 for row in rows), f"a row of {name} has more or fewer than five cells"
    return {row[0].strip("`"): (row[1], row[4]) for row in rows[2:]}


# --- the document ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHAPES)
def test_the_document_describes_every_field_as_the_code_has_it(name):
    kind, table = SHAPES[name], described(name)
    fields = get_type_hints(kind)
    assert list(table) == list(fields)
    for field, (type_text, when_missing) in table.items():
        optional = field in kind.__optional_keys__
        assert type_text == type_name(fields[field]) + (", optional" if optional else "")
        may_be_missing = optional or NoneType in get_args(fields[field])
        assert bool(when_missing) == may_be_missing, f"{name}.{field}: when is it null or absent?"


def test_the_document_describes_nothing_else():
    headings = set(re.findall(r"^### (\w+)$", DOCUMENT, re.MULTILINE))
    assert headings == SHAPES.keys() | {"Arrays"}
    assert f"`schema_version` is {json_files.SCHEMA_VERSION}." in DOCUMENT


def test_a_pair_has_every_metric():
    others = {"trial_a", "trial_b", "history", "relative_pd_last_position", "top1_disagreement_last_position"}
    assert Pair.__annotations__.keys() - others == metrics.METRICS.keys()


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_shipped_file_has_the_format(path):
    content = json.loads(path.read_text(encoding="utf-8"))
    assert mismatches(content, shape_of(path)) == []
    assert content["schema_version"] <= json_files.SCHEMA_VERSION
    Config(**content["identity"]["config"])  # fields that it lacks have defaults
    assert ("task" in content["identity"]) != ("corpus_sha256" in content["identity"])


def test_studies_are_shipped_at_all():
    assert {shape_of(path) for path in SHIPPED} == {StudyFile, SummaryFile, Result}


BROKEN = """
import train
def broken(*arguments, **options):
    raise RuntimeError("no such luck")
train.run_protocol = broken
"""


@pytest.mark.parametrize(
    ("options", "prelude", "statuses"),
    [
        (["--activations=relu,prelu"], "", {"complete"}),
        (["--activations=relu", "--learning-rate=1e38"], "", {"diverged"}),
        (["--activations=relu"], BROKEN, {"failed"}),
    ],
    ids=["complete", "diverged", "failed"],
)
def test_what_a_study_writes_has_the_format(tiny_corpus_file, tmp_path, options, prelude, statuses):
    run = ("run_all_experiments.py", *studies.TINY, f"--corpus={tiny_corpus_file}", "--trials=2")
    studies.run(*run, *options, folder=tmp_path, prelude=prelude)
    paths = list((tmp_path / "results").glob("*.json"))
    assert len(paths) > 2
    found = set()
    for path in paths:
        content = json_files.read_json(path)
        assert mismatches(content, shape_of(path)) == []
        assert content["identity"]["config"].keys() == ConfigCPU().as_dict().keys()
        found |= {record["status"] for record in content.get("trials", [])}
    assert found == statuses


# --- what is noticed ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"step": 0, "train_loss": 4.2}, ["val_loss is missing"]),
        ({"step": 0, "train_loss": 4.2, "val_loss": None, "loss": 1}, ["loss is unknown"]),
        ({"step": 0.5, "train_loss": 4, "val_loss": None}, ["step: expected integer, found 0.5"]),
        ({"step": True, "train_loss": 4, "val_loss": None}, ["step: expected integer, found True"]),
        ({"step": 0, "train_loss": "4.2", "val_loss": None}, ["train_loss: expected number, found '4.2'"]),
        ({"step": 0, "train_loss": 4, "val_loss": 4, "probes": [1]}, ["probes: expected name → number or list of"]),
        ({"step": 0, "train_loss": 4, "val_loss": 4, "probes": {"a": "b"}}, ["probes.a: expected number or list of"]),
        ([0, 4.2, 4.2], [": expected HistoryPoint, found [0, 4.2, 4.2]"]),
    ],
)
def test_a_departure_from_the_format_is_named(value, says):
    found = mismatches(value, HistoryPoint)
    assert len(found) == len(says)
    assert all(text.startswith(start) for text, start in zip(found, says)), found


@pytest.mark.parametrize(
    "probes", [{"loss": 1.5}, {"kernel": [0.5, 1]}, {"gradient_norm": {"all": 1, "head": 0.5}}, {}]
)
def test_a_history_point_may_hold_probes(probes):
    assert mismatches({"step": 0, "train_loss": 4, "val_loss": 4, "probes": probes}, HistoryPoint) == []


def test_a_fault_deep_inside_a_file_is_placed():
    content = json.loads((ROOT / "results" / "reference" / "matched" / "charlm_relu.json").read_text(encoding="utf-8"))
    content["trials"][1]["status"] = "done"
    content["pairs"][2]["history"][0]["step"] = None
    content["identity"]["config"]["n_embd"] = [128]
    content["summary"]["val_loss"]["ci95"] = 1.5
    assert mismatches(content, Result) == [
        "identity.config.n_embd: expected integer or number or text, found [128]",
        "trials[1].status: expected `complete` or `diverged` or `failed`, found 'done'",
        "pairs[2].history[0].step: expected integer, found None",
        "summary.val_loss.ci95: expected list of number, found 1.5",
    ]


# --- versions -------------------------------------------------------------------------------------------------------


def test_a_newer_version_is_refused_by_name_and_an_unknown_field_is_not(tmp_path):
    path = tmp_path / "study.json"
    json_files.write_json(path, {"schema_version": json_files.SCHEMA_VERSION, "identity": {}, "of_the_future": 1})
    assert json_files.read_json(path)["of_the_future"] == 1
    json_files.write_json(path, {"schema_version": json_files.SCHEMA_VERSION + 1, "identity": {}})
    with pytest.raises(RunError, match=r"study\.json has schema_version 3, but this program supports up to 2"):
        json_files.read_json(path)
