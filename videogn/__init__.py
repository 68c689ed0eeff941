"""videogn: video classification with a normalization you choose, and its cost made visible."""

__version__ = "0.1.0"
