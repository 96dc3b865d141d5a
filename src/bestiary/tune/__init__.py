"""Hyperparameter search over recipes."""
