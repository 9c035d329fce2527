"""Decontamination: documents that hold items of evaluation sets."""

from stages.decontaminate.decontaminate import Decontaminate, DecontaminateConfig

__all__ = ["Decontaminate", "DecontaminateConfig"]
