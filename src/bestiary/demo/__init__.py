"""Synthetic demo dataset: drawn creatures with planted faults."""
