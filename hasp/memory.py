"""Peak resident memory of this process, read from the kernel's own high-water mark.

A sampling thread is starved by the GIL and reports a fraction; the kernel's mark misses nothing.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["available_bytes", "peak_bytes", "reset_peak", "resident_bytes"]

_STATUS = Path("/proc/self/status")
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


def _field(path: Path, name: str) -> int:
    try:
        text = path.read_text()
    except OSError:
        return 0
    for line in text.splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    return 0
