"""Checkpoints: trees of arrays on disk, and whether they are still what was saved."""
