"""Evaluation: metrics with confidence intervals, and analyses of errors, as plain values; pages are in `report`."""
