"""Training a few parameters beside a frozen model: LoRA, QLoRA and prompt tuning, in peft's format. `adapter.py` is where to start.

`config.py` needs no torch; everything else is imported when a model is adapted.
"""
