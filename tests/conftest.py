"""Fixtures that several test files share."""

from tests.tokens_dataset import dataset, tokenizer

__all__ = ["dataset", "tokenizer"]
