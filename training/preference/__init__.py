"""Learning from pairs of a better and a worse answer: a reward model, and direct preference optimisation."""
