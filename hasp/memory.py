"""Peak resident memory of this process, read from the kernel's own high-water mark.

A sampling thread is starved by the GIL and reports a fraction; the kernel's mark misses nothing.
"""

from __future__ import annotations

import ctypes
import mmap
from functools import cache
from pathlib import Path
from typing import Any

__all__ = [
    "available_bytes",
    "drop",
    "mapped_bytes",
    "peak_bytes",
    "reset_peak",
    "resident_bytes",
    "shared_ranges",
]

_STATUS = Path("/proc/self/status")
_STATM = Path("/proc/self/statm")
_MAPS = Path("/proc/self/maps")
_CLEAR = Path("/proc/self/clear_refs")


def resident_bytes() -> int:
    """Resident bytes now; 0 where the system does not tell."""
    return _field(_STATUS, "VmRSS")


def peak_bytes() -> int:
    """The most resident bytes since the start of the process or the last :func:`reset_peak`; 0 where unknown."""
    return _field(_STATUS, "VmHWM")


def reset_peak() -> bool:
    """Start measuring the peak afresh; whether the system allowed it."""
    try:
        _CLEAR.write_text("5")
    except OSError:
        return False
    return True


def available_bytes() -> int:
    """Memory that new allocations may use before swapping, in bytes; 0 where unknown."""
    return _field(Path("/proc/meminfo"), "MemAvailable")


def mapped_bytes() -> int:
    """Resident bytes now that belong to mapped files and shared memory; 0 where the system does not tell."""
    try:
        return int(_STATM.read_text().split()[2]) * mmap.PAGESIZE
    except OSError:
        return 0


def shared_ranges() -> list[tuple[int, int]]:
    """Addresses (first, one past the last) that are mapped from files and shared with them; none where unknown."""
    out = []
    for line in _MAPS.read_text().splitlines() if _MAPS.exists() else ():
        words = line.split(maxsplit=5)
        if len(words) == 6 and words[1].endswith("s") and words[5].startswith("/") and not words[5].startswith("/dev/"):
            low, _, high = words[0].partition("-")
            out.append((int(low, 16), int(high, 16)))
    return out


def drop(low: int, high: int) -> None:
    """Take the whole pages between two addresses of one shared map out of this process; the file keeps their bytes.

    Only for ranges of :func:`shared_ranges` whose map is alive: of any other memory the contents would be lost.
    """
    first, last = -(-low // mmap.PAGESIZE) * mmap.PAGESIZE, high // mmap.PAGESIZE * mmap.PAGESIZE
    if last > first and hasattr(mmap, "MADV_DONTNEED"):
        _libc().madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), mmap.MADV_DONTNEED)


@cache
def _libc() -> Any:
    return ctypes.CDLL(None)


def _field(path: Path, name: str) -> int:
    try:
        text = path.read_text()
    except OSError:
        return 0
    for line in text.splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    return 0
