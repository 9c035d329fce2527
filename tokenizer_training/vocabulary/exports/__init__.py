"""A trained tokenizer in other programs' formats, each giving the same ids or refused with the reason."""
