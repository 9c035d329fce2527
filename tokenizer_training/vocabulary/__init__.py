"""From documents to a vocabulary: split patterns, counts of pre-tokens, merges, special tokens, and the files that carry it."""
