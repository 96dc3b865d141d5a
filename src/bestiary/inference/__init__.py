"""Prediction: the predictor, its inputs, outputs and prediction sets."""
