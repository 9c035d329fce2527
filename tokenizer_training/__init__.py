"""Tokenizer training, the efficiency report, encoding, packing, and the token dataset. See docs/tokenizer.md."""
