"""Pre-trained weights: where they come from, what layout they have, and how they fill a network."""

from videogn.weights.files import KNOWN, find_weights
from videogn.weights.load import LoadReport, load_weights, read_weights
from videogn.weights.source import SourceWeights
from videogn.weights.torchvision_layout import to_torchvision

__all__ = [
    "KNOWN",
    "LoadReport",
    "SourceWeights",
    "find_weights",
    "load_weights",
    "read_weights",
    "to_torchvision",
]
