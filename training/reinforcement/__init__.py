"""Learning from the rewards of what the model itself writes: PPO, GRPO and their kin."""
