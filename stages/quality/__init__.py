"""Heuristic filters: what reads like a document, one file a paper."""

from stages.quality.c4 import C4
from stages.quality.fineweb import FineWeb
from stages.quality.gopher import Gopher
from stages.quality.gopher_repetition import GopherRepetition
from stages.quality.mc4 import Mc4
from stages.quality.ratios import Ratios
from stages.quality.refinedweb import RefinedWeb

__all__ = ["C4", "FineWeb", "Gopher", "GopherRepetition", "Mc4", "Ratios", "RefinedWeb"]
