"""From a trained network to the model file that ships: calibrated, written, verified."""
