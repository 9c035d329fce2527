"""Evaluation of finished models: likelihood of text, tasks, samples, memorisation. `evaluate.py` is where to start.

`config.py` needs no torch; everything else is imported when a model is evaluated.
"""
