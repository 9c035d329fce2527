"""The stones of the mill: every filter, extractor and deduplicator as a small class over Arrow batches.

Nothing here imports Ray, reads a clock or keeps global state; `stages.stage` holds the contracts.
"""
