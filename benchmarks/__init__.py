"""Measurements, not tests: `python -m benchmarks [NAME ...]`. What was measured is written in docs/benchmarks.md."""
