"""Benchmarks of the tokenizer mill, one topic a file."""
