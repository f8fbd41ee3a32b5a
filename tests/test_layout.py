"""Claims about the layout: imports point downwards, or sideways without a cycle; few files lie at the top level.

Imports are read from the source, not executed: those inside functions count like those at the top of a module.
"""

import ast
import graphlib
import importlib.util
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parent.parent
MOST_TOP_LEVEL_FILES = 20

# Packages and top-level modules, as in DESIGN.md section 2. A module may import from its own layer and those below.
LAYERS = {
    7: "run_all_experiments analyze_results audit audit_timing benchmark check_statistics test_cpu"
    " compare_predictions quick_sensitivity diagnose",
    6: "study report claims benchmarks sensitivity",
    5: "train plot_utils",
    4: "training diagnostics figures simulations",
    3: "architectures analysis tasks",
    2: "model activations config config_cpu",
    1: "metrics randomness common kernels",
}
LAYER_OF = {name: layer for layer, names in LAYERS.items() for name in names.split()}


# --- reading imports ------------------------------------------------------------------------------------------------


def module_name(path: str) -> str:
    """The name by which a file is imported: 'study/jobs.py' -> 'study.jobs', 'study/__init__.py' -> 'study'."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def names_imported(path: str, source: str) -> Iterator[str]:
    """Every dotted name that a file imports, longest form: `from study import jobs` gives 'study.jobs'."""
    name = module_name(path)
    package = name if path.endswith("__init__.py") else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(source, path)):
        match node:
            case ast.Import(names=aliases):
                yield from (alias.name for alias in aliases)
            case ast.ImportFrom(module=module, names=aliases, level=level):
                base = importlib.util.resolve_name("." * level + (module or ""), package)
                yield from (f"{base}.{alias.name}" for alias in aliases)
            case ast.Call(func=ast.Attribute(attr="import_module"), args=[ast.Constant(value=str(imported)), *_]):
                yield imported


def import_graph(sources: dict[str, str]) -> dict[str, set[str]]:
    """Module -> the modules of this repository that it imports, of {path: source}."""
    modules = {module_name(path) for path in sources}

    def module_of(name):  # 'study.jobs.Job' -> 'study.jobs'; None for a library
        while name and name not in modules:
            name = name.rpartition(".")[0]
        return name or None

    return {
        module_name(path): {module_of(name) for name in names_imported(path, source)} - {None, module_name(path)}
        for path, source in sources.items()
    }


def unit(module: str) -> str:
    """What has a layer: a package, or a top-level module."""
    return module.partition(".")[0]


def between_units(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """Package or top-level module -> the others that it imports."""
    arrows = {unit(module): set() for module in graph}
    for module, imported in graph.items():
        arrows[unit(module)] |= {unit(name) for name in imported} - {unit(module)}
    return arrows


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """The names along a cycle of imports, each imported by the next; [] if there is none."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def faults(sources: dict[str, str]) -> list[str]:
    """One sentence for each breach of the layout, of {path: source}."""
    graph = import_graph(sources)
    found = [f"{name} has no layer; add it to LAYERS" for name in between_units(graph) if name not in LAYER_OF]
    found += [
        f"{module} (layer {LAYER_OF[unit(module)]}) imports {name} (layer {LAYER_OF[unit(name)]}), which lies above it"
        for module, imported in graph.items()
        for name in sorted(imported)
        if LAYER_OF.get(unit(name), 0) > LAYER_OF.get(unit(module), 99)
    ]
    for kind, arrows in (("modules", graph), ("packages", between_units(graph))):
        if names := cycle(arrows):
            found.append(f"{kind} import each other in a cycle: {' <- '.join(names)}")
    top_level = [path for path in sources if len(PurePosixPath(path).parts) == 1]
    if len(top_level) > MOST_TOP_LEVEL_FILES:
        found.append(f"{len(top_level)} Python files at the top level; at most {MOST_TOP_LEVEL_FILES} may be there")
    return found


# --- the claims -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sources() -> dict[str, str]:
    """Path -> source of every tracked Python file outside tests/."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("no git checkout: tracked files are unknown")
    listed = subprocess.run(["git", "ls-files", "-z", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True)
    paths = [path for path in listed.stdout.split("\0") if path and (ROOT / path).exists()]
    return {path: (ROOT / path).read_text(encoding="utf-8") for path in paths if not path.startswith("tests/")}


def test_imports_point_downwards_without_a_cycle_and_the_top_level_is_short(sources):
    assert len(sources) > 50  # the files were found at all
    assert faults(sources) == []


def test_no_check_vanishes_under_python_O(sources):
    """`python -O` leaves assert statements out."""
    nodes = {path: list(ast.walk(ast.parse(source, path))) for path, source in sources.items()}
    assert [path for path, found in nodes.items() if any(isinstance(node, ast.Assert) for node in found)] == []


@pytest.mark.parametrize(
    ("path", "source", "says"),
    [
        ("config.py", "import train", "config (layer 2) imports train (layer 5), which lies above it"),
        ("config.py", "def f():\n    from study import jobs", "config (layer 2) imports study.jobs (layer 6)"),
        ("metrics.py", "from analysis.results import Cell", "metrics (layer 1) imports analysis.results (layer 3)"),
        ("study/jobs.py", "def f():\n    from study import run", "cycle: study.jobs <- study.run <- study.jobs"),
        ("study/jobs.py", "from .run import run", "cycle: study.jobs <- study.run <- study.jobs"),
        ("study/jobs.py", "import report.tables", "packages import each other in a cycle: study <- report <- study"),
        ("oddments.py", "", "oddments has no layer"),
    ],
)
def test_a_breach_of_the_layout_is_named(path, source, says):
    sound = {
        "config.py": "",
        "metrics.py": "",
        "train.py": "import config",
        "analysis/results.py": "import metrics\nfrom metrics import METRICS",
        "study/__init__.py": "",
        "study/jobs.py": "import train",
        "study/run.py": "def f():\n    from study.jobs import Job",
        "report/tables.py": "",
        "report/several_studies.py": "from study import run",
    }
    assert faults(sound) == []
    assert any(says in fault for fault in faults({**sound, path: source})), faults({**sound, path: source})


def test_a_21st_file_at_the_top_level_is_named():
    files = {f"{name}.py": "" for name in LAYER_OF} | {f"file_{k}.py": "" for k in range(21)}
    some = dict(list(files.items())[:21])
    assert any("21 Python files at the top level" in fault for fault in faults(some))
    some.popitem()
    assert not any("at the top level" in fault for fault in faults(some))
