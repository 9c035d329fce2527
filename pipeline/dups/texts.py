"""The texts of a cluster's members: where each still is, or that it is nowhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.dups.cluster import ELSEWHERE, Member
from pipeline.engine.writers import SAMPLE_CHARACTERS
from pipeline.report import scan
from pipeline.report.kept import kept_rows, rows_where
from stages.pii.scrub import Scrubber
from training.report import human

SHOWN = 24_000  # characters of a text that are compared
SCRUBBED = 25_000  # characters that are scrubbed, so that nothing is cut in two where the shown part ends


@dataclass
class Text:
    """A member's text, scrubbed of personal data, and where it was found; or None, and why."""

    text: str | None
    where: str
    date: datetime | None = None
    more: int = 0  # characters beyond those shown


class Texts:
    """Finds texts in phases/ (as the stage saw them), documents/ and samples/, in this order."""

    def __init__(self, run: Path, facts: Mapping[str, Any]) -> None:
        self.run = run
        self.before = _phases_before(facts)
        self.scrubber = Scrubber()
        self._stored: dict[tuple[str, str], dict[str, Any]] = {}  # by id and phase
        self._kept: dict[str, dict[str, Any]] = {}
        self._samples: dict[str, dict[str, Any]] = {}
        self._read: dict[str, Text] = {}  # read from the input again

    def look(self, pairs: Iterable[tuple[Member, str | None]]) -> None:
        """Read what can be had of these members as these stages saw them (None: as they are in documents/)."""
        wanted: dict[tuple[str, str], set[str]] = {}  # phase, unit -> ids
        ids = set()
        for member, stage in pairs:
            ids.add(member.id)
            phase = self.before.get(stage or "")
            if phase is not None:
                wanted.setdefault((phase, member.unit), set()).add(member.id)
        for (phase, unit), some in wanted.items():
            file = self.run / "phases" / phase / f"{unit}.parquet"
            for row in _rows_of(file, some):
                self._stored[(row["id"], phase)] = row
        self._kept = kept_rows(self.run, ids, ("date",))
        names = [name for name in ("id", "text") if name in scan.columns_of(self.run / "samples")]
        rows = rows_where(self.run / "samples", "id", pa.array(sorted(ids), pa.string()), names) if names else ()
        self._samples = {row["id"]: row for row in rows}

    def add(self, member: Member, text: Text) -> None:
        """A text that was had in another way."""
        self._read[member.id] = text

    def of(self, member: Member, stage: str | None) -> Text:
        """A member's text as a stage saw it, or else as it can be had."""
        phase = self.before.get(stage or "")
        stored = self._stored.get((member.id, phase)) if phase is not None else None
        kept, sample = self._kept.get(member.id), self._samples.get(member.id)
        date = (stored or kept or {}).get("date")
        if stored is not None and stored.get("text"):
            return self._shown(stored["text"], f"phases/{phase}", date)
        if kept is not None and kept.get("text"):
            return self._shown(kept["text"], "documents/, as the run left it", date)
        if member.id in self._read:
            return self._read[member.id]
        if sample is not None and sample.get("text"):
            text = sample["text"]
            cut = len(text) >= SAMPLE_CHARACTERS
            return Text(human.shown(text, SHOWN), "samples/" + (", its beginning" if cut else ""), date)
        if member.fate == ELSEWHERE:
            return Text(None, "not there: a document of another run")
        if stored is not None:
            return Text(None, f"not there: dropped before `extract` made a text of its page (phases/{phase})", date)
        gone = "phases/ is gone (`clean`)" if not (self.run / "phases").is_dir() else "phases/ does not hold it"
        return Text(
            None, f"not there: {gone}, and samples/ does not have this document; --reread reads the input again"
        )

    def shown(self, text: str, where: str, date: datetime | None = None) -> Text:
        """A text from elsewhere, scrubbed like the others."""
        return self._shown(text, where, date)

    def _shown(self, text: str, where: str, date: datetime | None) -> Text:
        scrubbed = self.scrubber.text(text[:SCRUBBED])
        return Text(human.shown(scrubbed[:SHOWN], SHOWN), where, date, max(len(text) - SHOWN, 0))


def _phases_before(facts: Mapping[str, Any]) -> dict[str, str]:
    """For each group stage the phase whose rows it compared."""
    found, before = {}, ""
    for phase in facts.get("phases") or []:
        if phase["kind"] == "map":
            before = phase["name"]
        elif phase["kind"] == "group" and phase["stages"]:
            found[phase["stages"][0]] = before
    return found


def _rows_of(file: Path, ids: set[str]) -> Iterable[dict[str, Any]]:
    """Rows of one stored file; none where `clean` has removed it."""
    if not file.is_file():
        return
    with scan.open_part(file) as part:
        have = part.schema_arrow.names
    wanted = pa.array(sorted(ids), pa.string())
    yield from rows_where(file, "id", wanted, [name for name in ("id", "text", "date") if name in have])
