"""How much memory this process has used and how much it may still take, on Linux, macOS and Windows."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_CGROUP = Path("/sys/fs/cgroup")
_LIMITS = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))
"""Limit and use of a container, cgroup version 2 and 1."""


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far, in MB (2**20 bytes)."""
    if sys.platform == "win32":
        return _windows_peak_bytes() / 2**20
    if sys.platform == "linux":
        # Not getrusage: its peak survives exec, so a child would report the memory of the program that started it.
        return _kilobytes("/proc/self/status", "VmHWM:") / 2**10
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def available_memory_bytes(device: torch.device | None = None) -> int:
    """Bytes that can be allocated without swapping: of the card for a CUDA device, else of the machine or container.

    On macOS, which counts differently, it is the physical memory of the machine.
    """
    if device is not None and device.type == "cuda":
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    if sys.platform == "win32":
        return _windows_available_bytes()
    if sys.platform == "darwin":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    machine = _kilobytes("/proc/meminfo", "MemAvailable:") * 1024
    return max(0, min([machine, *_container_free_bytes(_CGROUP)]))


def give_back() -> None:
    """Return memory that was freed but is still held by the C library, where it can do so (glibc); a few milliseconds.

    Volumes of less than 32 MB are freed into its heap, where those of the next stage do not always fit.
    """
    if sys.platform == "linux":
        import ctypes

        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def _kilobytes(table: str, key: str) -> int:
    """The number after ``key`` in one of the kernel's tables."""
    line = next(line for line in Path(table).read_text().splitlines() if line.startswith(key))
    return int(line.split()[1])


def _container_free_bytes(folder: Path) -> list[int]:
    """Limit minus use, for every limit that is set; the page cache counts as used and so errs on the safe side."""
    free = []
    for limit, used in _LIMITS:
        if (folder / limit).is_file() and (folder / used).is_file():
            text = (folder / limit).read_text().strip()
            if text.isdigit():
                free.append(int(text) - int((folder / used).read_text()))
    return free


def _windows_peak_bytes() -> int:
    import ctypes
    from ctypes import wintypes

    class Counters(ctypes.Structure):
        _fields_ = [("cb", wintypes.DWORD), ("page_faults", wintypes.DWORD)] + [
            (name, ctypes.c_size_t) for name in ("peak", "resident", "a", "b", "c", "d", "pagefile", "peak_pagefile")
        ]

    counters = Counters(cb=ctypes.sizeof(Counters))
    process = wintypes.HANDLE(ctypes.windll.kernel32.GetCurrentProcess())
    ctypes.windll.psapi.GetProcessMemoryInfo(process, ctypes.byref(counters), counters.cb)
    return counters.peak


def _windows_available_bytes() -> int:
    import ctypes

    class Status(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ulong), ("load", ctypes.c_ulong)] + [
            (name, ctypes.c_ulonglong)
            for name in (
                "total",
                "available",
                "total_page",
                "available_page",
                "total_virtual",
                "free_virtual",
                "extended",
            )
        ]

    status = Status(length=ctypes.sizeof(Status))
    ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))
    return status.available
