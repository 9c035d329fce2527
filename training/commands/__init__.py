"""The commands of `python -m training`, one file each: `add` declares it, `run` returns the exit code."""
