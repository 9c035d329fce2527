"""What the mix and its caps read of documents: sizes, domains, and the hash that chooses."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow.compute

from stages.batch import Batch

pc: Any = pyarrow.compute  # its stubs know too little


def text_bytes(batch: Batch) -> np.ndarray:
    """UTF-8 bytes of each text (int64); 0 for a null."""
    found: np.ndarray = pc.fill_null(pc.binary_length(batch.column("text")), 0).to_numpy().astype(np.int64)
    return found


def places(ids: list[str | None], seed: int, purpose: str) -> np.ndarray:
    """A number in [0, 1) for each id (float64, 53 bits): the start of SHA-256 over seed, purpose and id, joined by NUL."""
    head = f"{seed}\0{purpose}\0".encode()
    first = [hashlib.sha256(head + (i or "").encode("utf-8", "surrogatepass")).digest()[:8] for i in ids]
    numbers = np.frombuffer(b"".join(first), dtype=">u8").astype(np.uint64)
    return (numbers >> np.uint64(11)).astype(np.float64) / float(1 << 53)


class DomainNames:
    """Registrable domains of addresses, by the public suffix list; made in `setup`, since that is slow to import."""

    def __init__(self) -> None:
        from stages.url_address import registrable_depth

        self._depth: Callable[[str], int] = registrable_depth()

    def __call__(self, urls: list[str | None]) -> list[str | None]:
        """The domain of each address: an IP address or a name of one label as it is; None without a host."""
        from stages.url_address import parse_address, registrable_domain

        found = []
        for url in urls:
            address = parse_address(url) if url and not url.isspace() else None
            host = address.host if address else ""
            found.append((registrable_domain(host, self._depth) or host) if host else None)
        return found
