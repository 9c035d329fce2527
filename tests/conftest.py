"""Fixtures that several test files share, and what holds for all."""

import os

from tests.tokens_dataset import dataset, tokenizer

__all__ = ["dataset", "tokenizer"]

# Tests start hundreds of processes; where no bytecode is written, each compiles all modules of the project again (a second).
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
