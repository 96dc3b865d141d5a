"""Experiments over several trainings: recipes under several seeds, and what a leaking split would have added."""
