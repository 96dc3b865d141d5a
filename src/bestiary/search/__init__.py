"""Experiments over the flow: several models, one question."""
