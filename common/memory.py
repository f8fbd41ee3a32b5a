"""How much memory there is, out-of-memory errors, and returning or keeping freed memory."""

import contextlib
import os
from pathlib import Path


def is_out_of_memory(error) -> bool:
    """Whether an error says that a GPU, or this machine, has no memory left."""
    import torch

    words = ("out of memory", "can't allocate memory", "STATUS_ALLOC_FAILED", "STATUS_ALLOCATION_FAILED")
    words += ("CUBLAS_STATUS_NOT_INITIALIZED",)  # what cuBLAS says where it finds no room to start in
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(word in str(error) for word in words)


def is_device_lost(error) -> bool:
    """Whether an error leaves this process without a GPU: after one, every later call of CUDA fails as well."""
    return "CUDA error" in str(error) and not is_out_of_memory(error)


def machine_memory(device: str = "cpu") -> int:
    """Bytes of memory that a process can have at the most: the machine's or its control group's, or a GPU's."""
    if device == "cuda":
        import torch

        return torch.cuda.get_device_properties(0).total_memory
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    with contextlib.suppress(OSError, ValueError):  # no control group, or one without a limit ("max")
        limits.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(limits)


def release_gpu_memory():
    """Gives a GPU's memory that no tensor uses back to the other processes on it, between two tasks."""
    import torch

    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def huge_pages_in_new_processes():
    """Lets processes that are started from here on have the arrays of their steps in huge pages, if they use glibc.

    A step goes through some hundred megabytes; in pages of 4 KB, finding them takes a few percent of its time. glibc
    reads the setting when a process starts. A setting of the user's own stays.
    """
    os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")


def keep_freed_memory():
    """Tells glibc to keep freed blocks instead of returning them: a step's arrays are as large as the last step's.

    Fetching the same megabytes from the system again costs a page fault per 4 KB, which on a virtual machine is more
    than computing with them. Does nothing where the C library is another one.
    """
    import ctypes

    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of <malloc.h>
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(mmap_threshold, 32 * 2**20)  # the largest that glibc accepts
    mallopt(trim_threshold, 2**30)
