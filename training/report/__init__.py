"""What a training run looks like on a page: charts, tables and samples from its metrics.jsonl. Imports no torch."""
