"""What a server allows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of one server. Times are in seconds."""

    rows: int = 32  # samples that decode side by side
    queue: int = 64  # samples that wait for a row; more are refused with 429
    body: int = 1 << 20  # bytes of a request
    tokens: int = 4096  # new tokens of a sample
    samples: int = 16  # of a request, its prompts together
    time: float = 300.0  # from when a request is queued to its last token
    stall: float = 30.0  # that a client may take to send its request, or to take what it is sent
