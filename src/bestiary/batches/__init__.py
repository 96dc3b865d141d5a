"""Batches: pixels read ahead of training, augmented many pictures at a time."""
