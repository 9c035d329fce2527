"""Heuristic filters: what reads like a document, one file a paper."""

from stages.quality.c4 import C4
from stages.quality.fineweb import FineWeb
from stages.quality.gopher import Gopher
from stages.quality.gopher_repetition import GopherRepetition

__all__ = ["C4", "FineWeb", "Gopher", "GopherRepetition"]
