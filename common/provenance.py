"""Provenance that results, trials and benchmarks record: versions, hardware, threads and git commit."""

import functools
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

# Variables that affect rounding. OMP_NUM_THREADS and MKL_NUM_THREADS do not: the program sets the number of threads.
ARITHMETIC_VARIABLES = (
    "ATEN_CPU_CAPABILITY",
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "ONEDNN_MAX_CPU_ISA",
    "DNNL_MAX_CPU_ISA",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "DNNL_DEFAULT_FPMATH_MODE",
    "OPENBLAS_CORETYPE",
    "NPY_DISABLE_CPU_FEATURES",
    "KMP_DETERMINISTIC_REDUCTION",
    "NVIDIA_TF32_OVERRIDE",
)


@functools.cache
def cpu_model() -> str:
    """The processor's model name, if the system provides it."""
    try:
        if sys.platform == "darwin":
            command = ["sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(command, capture_output=True, text=True, timeout=5).stdout.strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except (OSError, subprocess.SubprocessError):
        pass
    return platform.processor() or platform.machine()


@functools.cache
def git_commit() -> str | None:
    """The commit of the program, with '+changes' if tracked files differ from it; None outside its own checkout.

    Only a repository whose root is the program's folder counts, not an enclosing one or the one in GIT_DIR.
    """
    root = Path(__file__).resolve().parent.parent
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    here = ("git", "--no-optional-locks", f"--git-dir={root / '.git'}", f"--work-tree={root}")

    def git(*arguments):
        return subprocess.run(
            [*here, *arguments], capture_output=True, text=True, timeout=10, check=True, cwd=root, env=environment
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


@functools.cache
def version(package: str) -> str:
    """An installed package's version; cached, since looking it up parses the package's metadata."""
    return metadata.version(package)


def usable_cpus() -> int:
    """The number of cores that this process may use, from its affinity and its control group's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            cores = min(cores, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass
    return cores


def native_bfloat16(device: str) -> str | None:
    """The hardware unit for native bfloat16 products, such as "AVX512-BF16 and AMX"; None: emulated, slowly.

    Parameters
    ----------
    device : {"cpu", "cuda", "mps"}
        Apple's GPUs and ARM have not been measured and count as emulated.
    """
    import torch

    if device == "cuda":
        return torch.cuda.get_device_name() if torch.cuda.is_bf16_supported(including_emulation=False) else None
    has = torch.cpu.get_capabilities() if device == "cpu" else {}
    units = {"avx512_bf16": "AVX512-BF16", "amx_bf16": "AMX"}
    return " and ".join(name for flag, name in units.items() if has.get(flag)) or None


@functools.cache
def compiler(device: str) -> str:
    """The compiler that torch.compile uses: Triton on a GPU, a C++ compiler on a CPU."""
    if device == "cuda":
        return f"triton {version('triton')}"
    from torch._inductor.cpp_builder import get_cpp_compiler

    return subprocess.run([get_cpp_compiler(), "--version"], capture_output=True, text=True).stdout.splitlines()[0]


@functools.cache
def gpu_environment() -> dict:
    """What a GPU's rounding depends on besides its model."""
    import torch

    return {
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "multiprocessors": torch.cuda.get_device_properties(0).multi_processor_count,
    }


def arithmetic_variables() -> dict[str, str]:
    """The environment variables that are set and can change rounding."""
    return {name: os.environ[name] for name in ARITHMETIC_VARIABLES if os.environ.get(name)}


def numeric_environment(environment: dict) -> dict:
    """The part of an environment that a trial's rounding depends on: all but Python and git_commit (see numerics_version)."""
    return {name: value for name, value in environment.items() if name not in ("python", "git_commit")}


def environment(device: str, threads: int, compiled: bool = False) -> dict:
    """The environment of a trial: everything that its rounding depends on, and the program's commit."""
    import torch

    return {
        "torch": str(torch.__version__),  # a subclass of str
        "numpy": version("numpy"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_model(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        **(gpu_environment() if device == "cuda" else {}),
        "threads": threads,
        **({"variables": variables} if (variables := arithmetic_variables()) else {}),
        "git_commit": git_commit(),
        **({"compiler": compiler(device)} if compiled else {}),
    }


def program() -> dict:
    """Provenance of a result file: the program's commit, versions of its dependencies, and hardware."""
    packages = ("torch", "numpy", "scipy")
    return {
        "git_commit": git_commit(),
        "versions": {name: version(name) for name in packages} | {"python": platform.python_version()},
        "hardware": {"cpu": cpu_model(), "cores": os.cpu_count(), "system": platform.platform()},
    }
