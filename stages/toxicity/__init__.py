"""What harms readers and models: obscene words, toxic texts, instructions to models, hidden text."""

from stages.toxicity.toxicity import Toxicity

__all__ = ["Toxicity"]
