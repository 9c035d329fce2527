"""Fine-tuning: one loop for all kinds (run.py), one update for all losses (update.py)."""
