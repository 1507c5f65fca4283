"""Bytes on the wire: what the kernel says that this process has sent over its TCP connections."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

__all__ = ["tcp_bytes_sent"]

_BYTES_SENT = 200  # where struct tcp_info of Linux (4.19 and later) keeps tcpi_bytes_sent, a uint64
_FDS = Path("/proc/self/fd")


def tcp_bytes_sent() -> int | None:
    """Payload bytes that all open TCP connections of this process have sent, repeats included; ``None``: cannot be known."""
    if not _FDS.is_dir() or not hasattr(socket, "TCP_INFO"):
        return None
    total = 0
    for path in list(_FDS.iterdir()):
        info = _info(path)
        if info is None:
            continue
        if len(info) < _BYTES_SENT + 8:
            return None
        total += struct.unpack_from("=Q", info, _BYTES_SENT)[0]
    return total


def _info(path: Path) -> bytes | None:
    """``struct tcp_info`` of an open file, if it is a TCP connection."""
    try:
        if not str(path.readlink()).startswith("socket:"):
            return None
        with socket.socket(fileno=os.dup(int(path.name))) as one:
            return one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 512)
    except OSError:  # closed meanwhile, or a socket of another kind
        return None
