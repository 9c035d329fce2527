"""Real text that every machine has: Python's own library, and an article of the UDHR in several languages."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

# Universal Declaration of Human Rights, article 1 (United Nations)
ARTICLES = {
    "en": "All human beings are born free and equal in dignity and rights. They are endowed with reason and conscience "
    "and should act towards one another in a spirit of brotherhood.",
    "de": "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft und Gewissen begabt "
    "und sollen einander im Geist der Brüderlichkeit begegnen.",
    "ru": "Все люди рождаются свободными и равными в своем достоинстве и правах. Они наделены разумом и совестью и "
    "должны поступать в отношении друг друга в духе братства.",
    "zh": "人人生而自由,在尊严和权利上一律平等。他们赋有理性和良心,并应以兄弟关系的精神相对待。",
    "hi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
    "th": "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ",
    "ar": "يولد جميع الناس أحرارا متساوين في الكرامة والحقوق.",
}

NASTY = [
    "",
    " ",
    "\x00\x01\x7f",
    "a\r\n\r\n\tb\n\n  c  \n",
    "e\u0301 \u00e9 \ufb01 \u200d\ufeff",
    "👩‍👩‍👧‍👦 🏳️‍🌈",
    "1234567890 3.14159 0x7fff",
    "camelCase don't WON'T we'LL l'été",
    "\U0010ffff\ufffd",
    "<|endoftext|> <|user|>hi<|end|><|reserved_63|><|endoftext|",
    "\u2028\u2029\u3000\u00a0x",
    *ARTICLES.values(),
]


def python_texts(count: int, size: int = 4000) -> list[str]:
    """The beginnings of the first `count` modules of the standard library, by name."""
    files = sorted(Path(os.__file__).parent.glob("[a-z]*.py"))
    texts = [file.read_text(encoding="utf-8", errors="replace")[:size] for file in files]
    return [text for text in texts if len(text) > 200][:count]


def identity(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()[:32]


def rows_of(texts: list[str], **columns: list[Any]) -> list[dict[str, Any]]:
    """Document rows with ids by position, source and language by turns."""
    made = []
    for number, text in enumerate(texts):
        row = {"id": identity(number), "text": text, "source": f"s{number % 3}", "language": "en"}
        made.append(row | {name: values[number] for name, values in columns.items()})
    return made


TYPES = {"repeat": pa.int32()}


def write_documents(folder: Path, rows: list[dict[str, Any]], parts: int = 1) -> list[Path]:
    """`rows` as documents files, cut into `parts` by turns."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for part in range(parts):
        mine = rows[part::parts]
        names = list(rows[0])
        table = pa.table({name: pa.array([row[name] for row in mine], TYPES.get(name, pa.string())) for name in names})
        files.append(folder / f"part-{part:05d}.parquet")
        pq.write_table(table, files[-1])
    return files
