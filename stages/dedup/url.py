"""`dedup.url`: of documents with one address, one is kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa

from stages.batch import Batch
from stages.dedup.equal import EqualContents
from stages.dedup.survivor import CRITERIA, DuplicateConfig, Survivor
from stages.stage import Addressed, knob, register
from stages.url_canonical import canonical_host, canonical_url


class UrlConfig(DuplicateConfig):
    """Knobs of `dedup.url`."""

    prefer: Literal["canonical", "url"] = knob(
        "canonical",
        "which address of a page counts: canonical (the one that the page itself names, in the column `canonical_url` of `extract`,"
        " and where it names none, or the front page of a site without being one, that of `url`), or url",
        "RFC 6596, the canonical link relation",
    )
    survivor: Survivor = knob(("latest",), "which document is kept: " + CRITERIA)


@register
class Url(EqualContents):
    """Groups documents by their address in its canonical spelling (docs/urls.md); one of each group is kept, the others are `duplicate`.

    Texts are not compared: the kept document is by default the latest visit. Documents without an address that names a host
    on the web are in no group. Also before `extract`, by `url` alone, so that no page is extracted twice.
    """

    name = "dedup.url"
    config_model = UrlConfig
    needs = ("id", "url", "source")
    libraries: ClassVar[tuple[str, ...]] = ("xxhash", "idna")
    config: UrlConfig

    def emit(self, batch: Batch, shard: int, rows: np.ndarray) -> Iterable[Addressed]:
        """One message for each document that has an address; where nothing is dated, and nobody asked for dates, the first stays."""
        if "survivor" not in self.config.model_fields_set and not batch.has("date"):
            batch = batch.with_columns({"date": pa.nulls(len(batch))})
        return super().emit(batch, shard, rows)

    def contents(self, batch: Batch) -> Iterator[bytes | None]:
        """The canonical spelling of each address."""
        own = batch.values("url")
        named = batch.values("canonical_url") if self.config.prefer == "canonical" else [None] * len(own)
        for url, canonical in zip(own, named, strict=True):
            address = _address(url)
            better = _address(canonical)
            # sites that name their front page on every page would shrink to one document
            if better is not None and not (_is_front(better) and address is not None and not _is_front(address)):
                address = better
            yield None if address is None else address.encode("utf-8", "surrogatepass")


def _address(url: object) -> str | None:
    """The canonical spelling; None for what names no host on the web."""
    if not isinstance(url, str):
        return None
    address = canonical_url(url)
    return address if canonical_host(address) else None


def _is_front(address: str) -> bool:
    """Whether a canonical address is that of a site's front page."""
    return address.count("/") == 3 and address.endswith("/")
