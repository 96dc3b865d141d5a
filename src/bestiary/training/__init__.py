"""Learning: the probe, the training loop, class balance, the run folder."""
