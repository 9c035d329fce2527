"""Heuristic filters, one file a paper: what reads like a document; and filters by models."""

from stages.quality.c4 import C4
from stages.quality.classifier import QualityClassifier
from stages.quality.fineweb import FineWeb
from stages.quality.gopher import Gopher
from stages.quality.gopher_repetition import GopherRepetition
from stages.quality.mc4 import Mc4
from stages.quality.perplexity import Perplexity
from stages.quality.quantile import ClassifierQuantile
from stages.quality.ratios import Ratios
from stages.quality.refinedweb import RefinedWeb
from stages.quality.regression import Regression

__all__ = [
    "C4",
    "ClassifierQuantile",
    "FineWeb",
    "Gopher",
    "GopherRepetition",
    "Mc4",
    "Perplexity",
    "QualityClassifier",
    "Ratios",
    "RefinedWeb",
    "Regression",
]
