"""Text to work on: documents of Parquet and JSONL files, read in batches and cut where they are too long."""
