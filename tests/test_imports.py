"""The import rules of docs/architecture.md, read from the code: arrows run one way, and what is heavy is imported late."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("pipeline", "stages", "tokenizer_training", "training")
MAY_IMPORT = {
    "pipeline": {"stages", "tokenizer_training", "training"},
    "stages": set(),
    "tokenizer_training": {"stages"},  # its compiler of kernels alone, see below
    "training": {"tokenizer_training"},
}
OF_TOKENIZER_TRAINING = {  # the reader of token datasets, and what special tokens and chat template say: all that training may know
    "tokenizer_training.vocabulary.special",
    "tokenizer_training.dataset.read",
    "tokenizer_training.dataset.loader",
}
OF_STAGES = {  # contracts, schemas, scrubbing, and how a text is prepared for a model that is trained here; no filtering rule
    "stages",
    "stages.stage",
    "stages.batch",
    "stages.conversation",
    "stages.pii.scrub",
    "stages.dedup.index_build",
    "stages.dedup.index_format",
    "stages.dedup.index_hash",
    "stages.fasttext_classifier",
    "stages.ngram.arpa",
    "stages.ngram.kneser_ney",
    "stages.ngram.model",
}
LIGHT = {"numpy", "pyarrow", "pydantic", "pydantic_core", "regex", "xxhash"}  # what stages may import before `setup`


class Imported(NamedTuple):
    file: str
    line: int
    module: str
    late: bool  # inside a function, or for type checkers only


def imports(package: str) -> list[Imported]:
    """Every import of a package's files."""
    return [one for path in sorted((ROOT / package).rglob("*.py")) for one in _of_file(path)]


def _of_file(path: Path) -> Iterator[Imported]:
    name = path.relative_to(ROOT).as_posix()

    def walk(node: ast.AST, late: bool) -> Iterator[Imported]:
        for child in ast.iter_child_nodes(node):
            inner = (
                late or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or _typing_only(child)
            )
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Imported(name, child.lineno, alias.name, late)
            elif isinstance(child, ast.ImportFrom):
                module = child.module or ""
                if child.level:  # relative: from the package of the file
                    package = name.removesuffix(".py").split("/")[: -child.level]
                    module = ".".join([*package, *([module] if module else [])])
                yield Imported(name, child.lineno, module, late)
                for alias in child.names:  # `from training import model` imports a module too
                    if (ROOT / module.replace(".", "/") / f"{alias.name}.py").exists():
                        yield Imported(name, child.lineno, f"{module}.{alias.name}", late)
            yield from walk(child, inner)

    yield from walk(ast.parse(path.read_text(encoding="utf-8")), False)


def _typing_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def root(module: str) -> str:
    return module.split(".")[0]


@pytest.mark.parametrize("package", PACKAGES)
def test_arrows_run_one_way(package: str) -> None:
    found = imports(package)
    assert found, f"{package} has no imports: is the package there?"
    others = set(PACKAGES) - MAY_IMPORT[package] - {package}
    assert [one for one in found if root(one.module) in others] == []


def test_training_knows_the_dataset_reader_only() -> None:
    found = {one for one in imports("training") if root(one.module) == "tokenizer_training"}
    assert found
    assert {one for one in found if one.module not in OF_TOKENIZER_TRAINING} == set()


def test_tokenizer_training_knows_no_stage() -> None:
    found = {one.module for one in imports("tokenizer_training") if root(one.module) == "stages"}
    assert found <= {"stages.jit"}


def test_the_pipeline_knows_no_filtering_rule() -> None:
    found = {one for one in imports("pipeline") if root(one.module) == "stages"}
    assert {one.module for one in found} >= {"stages.stage", "stages.batch"}
    assert {one for one in found if one.module not in OF_STAGES} == set()


def test_only_the_engine_imports_ray() -> None:
    users = {one.file for package in PACKAGES for one in imports(package) if root(one.module) == "ray"}
    assert users and all(file.startswith("pipeline/engine/") for file in users)


def test_torch_is_imported_early_by_training_alone() -> None:
    early = {one for package in PACKAGES for one in imports(package) if root(one.module) == "torch" and not one.late}
    assert {root(one.file.replace("/", ".")) for one in early} == {"training"}


def test_stages_import_what_is_heavy_late() -> None:
    allowed = LIGHT | {"stages"} | set(sys.stdlib_module_names)
    assert [one for one in imports("stages") if not one.late and root(one.module) not in allowed] == []


def test_commands_start_without_what_is_heavy() -> None:
    """What the rules are for: a config is checked without torch, Ray or a parser being loaded, or even installed."""
    code = "import sys, pipeline.cli, pipeline.config, pipeline.catalogue; pipeline.catalogue.catalogue(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    heavy = {
        "torch",
        "ray",
        "trafilatura",
        "spacy",
        "presidio_analyzer",
        "fasttext",
        "datasketch",
        "tldextract",
        "ftfy",
    }
    assert heavy & set(done.stdout.split()) == set()


def test_benchmarks_can_be_imported_without_the_peers() -> None:
    """All but `learn`, which trains with a library that only it needs."""
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in sorted((ROOT / "benchmarks").rglob("*.py"))
        if path.stem not in ("__main__", "learn") and "peers" not in path.parts
    ]
    code = f"import importlib\nfor name in {names}:\n    importlib.import_module(name)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_worker_starts_without_pandas_and_without_patterns_for_numbers() -> None:
    """pyarrow would import pandas for its first array; whoever asks for it later has it, and pyarrow finds it then."""
    code = """
import sys
from pipeline.engine.work import prepare
import pipeline.engine.map_unit
prepare(None)
import pyarrow as pa
pa.table({"a": [1, None]})
assert "pandas" not in sys.modules
from stages.pii.national import KINDS
assert not [kind for kind in KINDS if "search" in vars(kind.cues)]
import pandas
assert pa.table({"a": [1, 2]}).to_pandas()["a"].sum() == 3
assert pa.Table.from_pandas(pandas.DataFrame({"a": ["x"]})).column_names == ["a"]
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
