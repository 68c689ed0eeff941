"""The reasons behind a number: mistakes, calibration, features, noise, heat."""
