"""A checkpoint put to use: on files, long videos and a camera."""

from videogn.predict.classifier import Classifier, load

__all__ = ["Classifier", "load"]
