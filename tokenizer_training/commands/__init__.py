"""One file for each command of `python -m tokenizer_training`: `add` declares it, `run` does it and returns the exit code."""
