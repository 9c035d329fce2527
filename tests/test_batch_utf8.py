"""A batch's text as bytes, whatever arrays it comes in."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from stages.batch import Batch, encoded

TEXTS = ["one", "", None, "zwei é 世", "3"]


def strings(batch: Batch) -> list[str]:
    data, bounds = batch.utf8()
    assert data.dtype == np.uint8 and bounds.dtype == np.int64 and bounds[0] == 0 and bounds[-1] == len(data)
    return [data[a:b].tobytes().decode() for a, b in pairwise(bounds)]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
def test_each_kind_of_string_column(kind: pa.DataType) -> None:
    whole = pa.array(TEXTS, kind)
    expected = [text or "" for text in TEXTS]
    assert strings(Batch(pa.table({"text": whole}))) == expected
    assert strings(Batch(pa.table({"text": whole}).slice(1, 3))) == expected[1:4]
    chunks = pa.chunked_array([whole.slice(0, 2), whole.slice(2, 0), whole.slice(2, 3)])
    assert strings(Batch(pa.table({"text": chunks}))) == expected
    assert strings(Batch(pa.table({"text": whole}).slice(5))) == []


def test_no_rows_no_chunks_no_column() -> None:
    assert strings(Batch(pa.table({"text": pa.chunked_array([], pa.string())}))) == []
    assert strings(Batch(pa.table({"id": ["a", "b"]}))) == ["", ""]


def test_it_is_what_encoded_makes_of_the_strings() -> None:
    batch = Batch(pa.table({"text": pa.array(TEXTS)}))
    for mine, theirs in zip(batch.utf8(), encoded(batch.texts()), strict=True):
        assert np.array_equal(mine, theirs)
    assert batch.utf8() is batch.utf8()
    assert strings(batch.with_columns({"text": pa.array(["x"] * 5)})) == ["x"] * 5
