"""Personal data: found and taken out."""

from stages.pii.redact import Pii

__all__ = ["Pii"]
