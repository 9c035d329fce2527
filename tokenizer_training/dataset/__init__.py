"""The token dataset: payload and sidecars, shuffling, packing, reading, checking."""
