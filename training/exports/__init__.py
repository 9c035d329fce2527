"""Finished models in other programs' formats."""
