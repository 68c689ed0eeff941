"""Measurements side by side: ratios within one run, of CPU time."""
