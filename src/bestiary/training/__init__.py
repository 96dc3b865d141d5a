"""Training: the probe, the training loop, fine-tuning, budgets, sessions."""
