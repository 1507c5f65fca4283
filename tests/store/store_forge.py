"""Manifests that lie about all but their own hash."""

import json

from blake3 import blake3


def seal(text: bytes) -> bytes:
    """Give a forged manifest the right hash of its own: only what it says can betray it."""
    at = text.index(b'"blake3": "') + len(b'"blake3": "')
    digest = blake3(text[:at] + b"0" * 64 + text[at + 64 :]).hexdigest().encode()
    return text[:at] + digest + text[at + 64 :]


def forge(folder, change):
    """Apply ``change`` to the manifest of ``folder``, in place or by what it returns, and seal it."""
    path = folder / "manifest.json"
    value = json.loads(path.read_bytes())
    changed = change(value)
    value = value if changed is None else changed
    text = json.dumps({"blake3": "0" * 64, **{k: v for k, v in value.items() if k != "blake3"}}).encode()
    path.write_bytes(seal(text.replace(b'{"blake3"', b'{\n"blake3"', 1)))
