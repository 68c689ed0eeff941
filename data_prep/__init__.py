"""Turns folders of videos into data roots: `python -m data_prep --help`."""
