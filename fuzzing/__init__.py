"""Fuzzing of the picture decoder and of every reader: `scripts/fuzz`."""
