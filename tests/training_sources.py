"""A token dataset of several sources and languages, and the documents/ it came from, for tests of what a run shows."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.training_common import make

SOURCES = ("web", "books", "<b>odd</b>")
LANGUAGES = ("en", "de", None)


def make_sources(folder: Path, **options) -> tuple[Path, Path, Path]:
    """(token dataset, tokenizer, documents). Sources go by turns; document k of a split has language k // 3 % 3."""
    tokens, tokenizer = make(folder, **options)
    documents = folder / "documents"
    documents.mkdir()
    for part, split in enumerate(("train", "validation")):
        sidecar = tokens / f"{split}-00000.parquet"
        if not sidecar.exists():
            continue
        table = pq.read_table(sidecar)
        count = table.num_rows
        at = table.schema.get_field_index("source")
        sources = pa.array([SOURCES[n % 3] for n in range(count)])
        pq.write_table(table.set_column(at, "source", sources), sidecar)
        about = {
            "id": table.column("id"),
            "url": [f"https://example.org/{split}/{n}" for n in range(count)],
            "text": ["secret"] * count,
            "source": sources,
            "language": pa.array([LANGUAGES[n // 3 % 3] for n in range(count)], pa.string()),
            "licence": pa.array(["CC-BY-4.0" if n % 2 else None for n in range(count)], pa.string()),
            "quality": [n / count for n in range(count)],
        }
        pq.write_table(pa.table(about), documents / f"part-{part:05d}.parquet", row_group_size=7)
    return tokens, tokenizer, documents
