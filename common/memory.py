"""Memory: how much is available, out-of-memory errors, and settings for allocating and freeing it."""

import contextlib
import os
from pathlib import Path


def is_out_of_memory(error) -> bool:
    """Whether an error means that a GPU, or this machine, is out of memory."""
    import torch

    words = ("out of memory", "can't allocate memory", "STATUS_ALLOC_FAILED", "STATUS_ALLOCATION_FAILED")
    words += ("CUBLAS_STATUS_NOT_INITIALIZED",)  # cuBLAS found no memory for its workspace
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(word in str(error) for word in words)


def is_device_lost(error) -> bool:
    """Whether an error makes the GPU unusable for this process: every later CUDA call fails as well."""
    return "CUDA error" in str(error) and not is_out_of_memory(error)


def machine_memory(device: str = "cpu") -> int:
    """Memory available to a process, in bytes: the machine's or its control group's, or a GPU's."""
    if device == "cuda":
        import torch

        return torch.cuda.get_device_properties(0).total_memory
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    with contextlib.suppress(OSError, ValueError):  # no control group, or one without a limit ("max")
        limits.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(limits)


def release_gpu_memory():
    """Returns a GPU's unused cached memory, for other processes on it; called between jobs."""
    import torch

    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def huge_pages_in_new_processes():
    """Makes glibc use huge pages in processes started from now on.

    A training step touches some hundred megabytes; with 4 KB pages, address translation takes a few percent of its
    time. glibc reads the setting when a process starts. A value set by the user is kept.
    """
    os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")


def keep_freed_memory():
    """Makes glibc keep freed blocks instead of returning them to the system: every step allocates the same sizes.

    Allocating them anew costs a page fault per 4 KB, which on a virtual machine can take longer than the computation.
    Does nothing with other C libraries.
    """
    import ctypes

    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of <malloc.h>
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(mmap_threshold, 32 * 2**20)  # the largest that glibc accepts
    mallopt(trim_threshold, 2**30)
