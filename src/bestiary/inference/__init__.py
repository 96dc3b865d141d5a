"""From a trained model to the sealed graph that ships, and the predictor that everybody uses."""
