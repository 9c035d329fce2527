"""Extraction: the gold sets, the extractors side by side, and how the block model is taught."""
