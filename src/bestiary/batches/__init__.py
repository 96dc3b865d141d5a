"""Batches: caches, prefetching, batch loading and augmentation."""
