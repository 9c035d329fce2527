"""`dedup.payload`: of pages with the same bytes, one is kept; before `extract`, so that no page is extracted twice."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import model_validator

from stages.batch import Batch
from stages.dedup.equal import EqualContents
from stages.dedup.survivor import DuplicateConfig
from stages.stage import register


class PayloadConfig(DuplicateConfig):
    """Knobs of `dedup.payload`."""

    @model_validator(mode="after")
    def _decides(self) -> PayloadConfig:
        if "longest" in self.survivor:
            raise ValueError("survivor: `longest` decides nothing among pages with the same bytes; leave it out")
        return self


@register
class Payload(EqualContents):
    """Groups pages by the 128-bit hash (XXH3) of their payload; one of each group is kept, the others are `duplicate`.

    Stands before `extract`: copies under other addresses (mirrors, session ids, pages crawled twice) need no extraction. The
    hash is of the bytes as they were read, after HTTP's own encodings; what a WARC header says of them is not asked.
    Documents that came as text, and pages of no bytes, are in no group.
    """

    name = "dedup.payload"
    config_model = PayloadConfig
    needs = ("id", "payload_hash", "source")
    config: PayloadConfig

    def contents(self, batch: Batch) -> Iterator[bytes | None]:
        """The hash of each payload."""
        from xxhash import xxh3_128_digest

        nothing = xxh3_128_digest(b"")
        for hashed in batch.values("payload_hash"):
            yield hashed if isinstance(hashed, bytes) and hashed != nothing else None
