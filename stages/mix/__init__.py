"""Mixing: how much of each group of documents a training set holds."""

from stages.mix.caps import Caps, CapsConfig
from stages.mix.config import MixConfig
from stages.mix.mix import Mix

__all__ = ["Caps", "CapsConfig", "Mix", "MixConfig"]
