"""Measure encoders and classifiers: frozen features, tests, activation maps."""
