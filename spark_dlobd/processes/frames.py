"""What a child process and its owner tell each other: one JSON line and bytes after it."""

from __future__ import annotations

import json
from typing import IO, Any


def write_frame(stream: IO[bytes], header: dict[str, Any], body: bytes = b"") -> None:
    """Write one JSON line and `body` after it."""
    stream.write(json.dumps({**header, "bytes": len(body)}).encode() + b"\n")
    stream.write(body)
    stream.flush()


def read_frame(stream: IO[bytes]) -> tuple[dict[str, Any], bytes] | None:
    """Read what `write_frame` wrote; None at the end of the stream."""
    line = stream.readline()
    if not line:
        return None
    header = json.loads(line)
    size = header.pop("bytes")
    body = stream.read(size)
    if len(body) != size:
        return None
    return header, body
