"""Where a file of weights comes from: a path, or a known name that is downloaded once."""

from __future__ import annotations

import re
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import torch

from videogn.errors import WeightsError

_DETECTRON = "https://dl.fbaipublicfiles.com/detectron/ImageNetPretrained"


@dataclass(frozen=True)
class KnownFile:
    """A published file of ImageNet weights.

    Attributes:
        origin: its URL, or the name of a weight of torchvision, whose URL torchvision knows.
        note: what it holds.
        top1_error: percent on ImageNet's validation set, one center crop, as published.
    """

    origin: str
    note: str
    top1_error: float

    @property
    def url(self) -> str:
        """The address of the file."""
        if self.origin.startswith("https://"):
            return self.origin
        from torchvision.models import get_weight  # a second to import, for two of the names

        return get_weight(self.origin).url


KNOWN: dict[str, KnownFile] = {
    "R-50-GN.pkl": KnownFile(
        f"{_DETECTRON}/47261647/R-50-GN.pkl", "Detectron, ResNet-50, 32 groups", 24.0
    ),
    "R-101-GN.pkl": KnownFile(
        f"{_DETECTRON}/47592356/R-101-GN.pkl", "Detectron, ResNet-101, 32 groups", 22.6
    ),
    # V1, trained by the plain recipe of the paper's time; V2's 80.9 % would not compare
    "resnet50": KnownFile(
        "ResNet50_Weights.IMAGENET1K_V1", "torchvision, ResNet-50, batch norm", 23.87
    ),
    "resnet101": KnownFile(
        "ResNet101_Weights.IMAGENET1K_V1", "torchvision, ResNet-101, batch norm", 22.63
    ),
}


def find_weights(source: str | Path) -> Path:
    """Returns the path of a file of weights, downloading a known name into torch.hub's cache.

    Args:
        source: an existing file, which wins, or a name in `KNOWN`.

    Raises:
        WeightsError: no such file or name, or the download failed.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return path
    known = KNOWN.get(str(source))
    if known is None:
        raise WeightsError(f"{source}: no such file, and the known names are {', '.join(KNOWN)}")
    url = known.url
    cached = Path(torch.hub.get_dir()).expanduser() / "checkpoints" / url.rsplit("/", 1)[-1]
    if not cached.is_file():
        _download(str(source), url, cached)
    return cached


def _download(name: str, url: str, target: Path) -> None:
    """Writes `target` whole or not at all; progress goes to stderr."""
    stated = re.search(r"-([0-9a-f]{8,})\.", target.name)  # resnet50-0676ba61.pth: of its SHA-256
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(target), stated and stated.group(1))
    except (OSError, HTTPException, RuntimeError) as error:  # network, disk; protocol; wrong hash
        raise WeightsError(
            f"{name} could not be downloaded ({error}); fetch {url} and put it at {target}, or "
            "give its path as model.init=/path/to/file, or train from scratch with model.init=null"
        ) from error
