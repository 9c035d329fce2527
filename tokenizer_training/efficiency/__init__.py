"""What a tokenizer costs: measures over a corpus, comparisons, and their report."""
