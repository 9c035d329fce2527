"""The texts of a corpus that a small model is trained on: JSONL, Parquet, text files, or the documents of a run."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from pipeline.files import InputError, InputFile, list_files, open_input
from pipeline.mistakes import NAME, explain, odd_numbers, unsaid
from pipeline.overrides import put, split_override
from pipeline.readers import open_segment, preflight, split
from pipeline.readers.record import ReadOptions
from pipeline.yamlfile import ConfigError, load
from stages.stage import knob

M = TypeVar("M", bound="TrainingConfig")


class CorpusConfig(BaseModel):
    """A corpus: files, or the folder of a run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    paths: tuple[str, ...] | None = knob(None, "files, globs or URLs")
    documents: str | None = knob(None, "a run's folder, instead of `paths`: its documents/ are the corpus")
    format: Literal["jsonl", "parquet", "text"] = knob("jsonl", "what the files hold; text: one document a file")
    text_field: str = knob("text", "the column that holds the text (jsonl, parquet)")
    licence: str | None = knob(None, "the texts' licence, for the model card")
    storage_options: dict[str, Any] = knob({}, "options for fsspec: {anon: true}, {profile: ...}")

    @model_validator(mode="after")
    def _one_place(self) -> CorpusConfig:
        if (self.paths is None) == (self.documents is None):
            raise ValueError("a corpus needs either `paths` or `documents`")
        if self.documents is not None and "format" in self.model_fields_set:
            raise ValueError("format: a run's documents are Parquet; leave it out with `documents`")
        return self

    def files(self) -> list[InputFile]:
        """Its files, sorted by their key. Raises `InputError`."""
        if self.documents is None:
            return list_files("corpus", self.format, self.paths or (), self.storage_options)
        return list_files(
            "corpus", "parquet", [f"{self.documents.rstrip('/')}/documents/*.parquet"], self.storage_options
        )

    def options(self) -> ReadOptions:
        """How its rows are read."""
        return ReadOptions(text_field=self.text_field, storage_options=dict(self.storage_options))

    def texts(self) -> Iterator[str]:
        """Its texts, in the order of its files; the empty text for a row that cannot be read or has none."""
        for file in self.files():
            for segment in split(file, max(1, file.size), self.options()):
                for record in open_segment(segment):
                    yield record.text if record.fate is None and record.text else ""

    def card(self) -> list[dict[str, Any]]:
        """What the model card says of each file: key, bytes, SHA-256."""
        found = []
        for file in self.files():
            with open_input(file.url, self.storage_options) as opened:
                digest = hashlib.sha256()
                while block := opened.read(1 << 20):
                    digest.update(block)
            found.append({"file": file.key, "bytes": file.size, "sha256": digest.hexdigest()})
        return found


class TrainingConfig(BaseModel):
    """What the configs of small models have in common."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = knob(..., "name of the model; `--output` defaults to models/<name>", pattern=NAME)

    @abstractmethod
    def corpora(self) -> dict[str, tuple[CorpusConfig, ...]]:
        """Every corpus by the key that it stands under."""


def read_training(model: type[M], path: Path, overrides: Sequence[str], help: str = "") -> M:
    """Read, override (`KEY=VALUE`) and validate a small model's config, and look at its files; `help` prints its keys. Raises `ConfigError`."""
    raw = load(path)
    for override in overrides:
        parts, value = split_override(override, "seed=1")
        put(raw, tuple(parts), value, override)
    found = odd_numbers(model, raw.data)
    try:
        config = model.model_validate(raw.data)
    except ValidationError as error:
        found += unsaid(explain(error, model, raw.data, help=help), found)
    mistakes = [*raw.mistakes, *unsaid(found, raw.mistakes)]
    if mistakes:
        raise raw.report(mistakes)
    for key, corpora in config.corpora().items():
        for corpus in corpora:
            try:
                for file in corpus.files():
                    preflight(file, corpus.options())
            except InputError as error:
                raise raw.report([((key,), f"{key}: {error}")]) from None
    return config


def check_output(folder: Path, *marks: str) -> None:
    """Refuse a folder with anything in it but an earlier model, which holds one of the files `marks`. Raises `ConfigError`."""
    if folder.is_file():
        raise ConfigError(f"--output {folder}: is a file; give a folder")
    if folder.is_dir() and any(folder.iterdir()) and not any((folder / mark).is_file() for mark in marks):
        raise ConfigError(
            f"--output {folder}: holds other files and no {' or '.join(marks)} of an earlier training; give a new folder"
        )
