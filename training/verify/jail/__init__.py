"""The launcher of sandboxed runs: a program of its own, of the standard library alone, started by verify/sandbox.py."""
