"""`python -m pipeline audit`: documents to look at, kept and dropped ones, and what people's marks say of each rule."""

from pipeline.audit.command import audit

__all__ = ["audit"]
