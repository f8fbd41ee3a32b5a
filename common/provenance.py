"""Where a number was made: versions, hardware, threads and git commit.

A module of its own because results, single trials and benchmarks all record it, and none of them should import another.
"""

import functools
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

# The number of threads is set by the program, whatever OMP_NUM_THREADS and MKL_NUM_THREADS say.
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
    """The processor's own name, as far as the system tells it."""
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
    """The commit of the program, with '+changes' where files differ from it; None outside a checkout of its own.

    A repository that merely holds the program's folder, or that the environment names (GIT_DIR, inside a git hook for
    instance), is another one.
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
    """An installed package's version; looking it up means reading the package's whole description."""
    return metadata.version(package)


def usable_cpus() -> int:
    """The cores that this process may use: its affinity, and its control group's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            cores = min(cores, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass
    return cores


def native_bfloat16(device: str) -> str | None:
    """What multiplies bfloat16 numbers natively on a device, such as "AVX512-BF16 and AMX"; None: it is emulated, slowly.

    Parameters
    ----------
    device : {"cpu", "cuda", "mps"}
        On Apple's GPUs and on ARM it has not been measured, and counts as emulated.
    """
    import torch

    if device == "cuda":
        return torch.cuda.get_device_name() if torch.cuda.is_bf16_supported(including_emulation=False) else None
    has = torch.cpu.get_capabilities() if device == "cpu" else {}
    units = {"avx512_bf16": "AVX512-BF16", "amx_bf16": "AMX"}
    return " and ".join(name for flag, name in units.items() if has.get(flag)) or None


@functools.cache
def compiler(device: str) -> str:
    """What torch.compile makes machine code with: Triton on a GPU, a C++ compiler on a CPU."""
    if device == "cuda":
        return f"triton {version('triton')}"
    from torch._inductor.cpp_builder import get_cpp_compiler

    return subprocess.run([get_cpp_compiler(), "--version"], capture_output=True, text=True).stdout.splitlines()[0]


@functools.cache
def gpu_environment() -> dict:
    """What else than its model decides a GPU's bits."""
    import torch

    return {
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "multiprocessors": torch.cuda.get_device_properties(0).multi_processor_count,
    }


def arithmetic_variables() -> dict[str, str]:
    """The environment variables that are set and choose other instructions, and so other bits."""
    return {name: os.environ[name] for name in ARITHMETIC_VARIABLES if os.environ.get(name)}


def numeric_environment(environment: dict) -> dict:
    """What of an environment decides a trial's bits: all but Python and the program's commit, for which numerics_version stands."""
    return {name: value for name, value in environment.items() if name not in ("python", "git_commit")}


def environment(device: str, threads: int, compiled: bool = False) -> dict:
    """What a trial ran on: enough to tell whether another machine could give the same bits, and the program's commit."""
    import torch

    return {
        "torch": str(torch.__version__),  # its own class is no plain data
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
    """Provenance of a whole result: the program's commit and the versions of what it stands on."""
    packages = ("torch", "numpy", "scipy")
    return {
        "git_commit": git_commit(),
        "versions": {name: version(name) for name in packages} | {"python": platform.python_version()},
        "hardware": {"cpu": cpu_model(), "cores": os.cpu_count(), "system": platform.platform()},
    }
