"""Indexes of the documents that runs have kept, for `dedup.index` of later runs: the section `index` and its commands."""
