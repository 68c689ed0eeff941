"""Which layout the tensors of a file have, told by their names, and what reads it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from videogn.errors import WeightsError
from videogn.weights.checkpoint_layout import is_checkpoint, read_checkpoint
from videogn.weights.content import Content
from videogn.weights.detectron import is_detectron, read_detectron
from videogn.weights.detectron2 import is_detectron2, read_detectron2
from videogn.weights.mmaction import is_mmaction, read_mmaction
from videogn.weights.pyslowfast import is_pyslowfast, read_pyslowfast
from videogn.weights.pytorchvideo_layout import is_pytorchvideo, read_pytorchvideo
from videogn.weights.source import SourceWeights
from videogn.weights.tensorpack import is_tensorpack, read_tensorpack
from videogn.weights.torchvision_layout import is_torchvision, read_torchvision
from videogn.weights.video_nonlocal import is_video_nonlocal, read_video_nonlocal


@dataclass(frozen=True)
class Layout:
    """One way to name the tensors of a ResNet.

    Attributes:
        detects: whether a file has it.
        reads: what a file that has it holds.
        names: what tells it, for messages.
    """

    detects: Callable[[Content], bool]
    reads: Callable[[Content], SourceWeights]
    names: str


# Ours first, whose tensors any name might have; no file has two of the others.
LAYOUTS: dict[str, Layout] = {
    "videogn": Layout(is_checkpoint, read_checkpoint, "model, config, classes, fingerprint"),
    "torchvision": Layout(is_torchvision, read_torchvision, "conv1.weight and bn1.weight"),
    "detectron": Layout(is_detectron, read_detectron, "conv1_w and conv1_gn_s"),
    "detectron2": Layout(is_detectron2, read_detectron2, "stem.conv1.weight"),
    "tensorpack": Layout(is_tensorpack, read_tensorpack, "conv0/W"),
    "video-nonlocal-net": Layout(is_video_nonlocal, read_video_nonlocal, "conv1_w and _bn_rm"),
    "pyslowfast": Layout(is_pyslowfast, read_pyslowfast, "s1.pathway0_stem.conv.weight"),
    "pytorchvideo": Layout(is_pytorchvideo, read_pytorchvideo, "blocks.0.conv.weight"),
    "mmaction2": Layout(is_mmaction, read_mmaction, "backbone.conv1.conv.weight"),
}

# Parts of networks that no preset here has; without this they would be listed one by one
_FOREIGN_PARTS = {
    "non-local blocks": re.compile(r"non_?local", re.IGNORECASE),
    "a second pathway": re.compile(r"pathway1|multipathway|^t_(res|conv1)|fast_path"),
}


def read_layout(content: Content) -> SourceWeights:
    """Returns what a file holds, its layout told by the names of its tensors.

    Raises:
        WeightsError: no layout that is known, a network with parts that none here has, or what the
            layout's reader refuses.
    """
    _refuse_foreign_parts(content.tensors)
    for layout in LAYOUTS.values():
        if layout.detects(content):
            return layout.reads(content)
    first = ", ".join(name[:60] for name in list(content.tensors)[:3])
    known = "; ".join(f"{layout.names} ({name})" for name, layout in LAYOUTS.items())
    raise WeightsError(
        f"not a layout that is known, each of which has its own names: {known}; it begins {first}"
    )


def _refuse_foreign_parts(names: Iterable[str]) -> None:
    for part, pattern in _FOREIGN_PARTS.items():
        found = [name for name in names if pattern.search(name)]
        if found:
            raise WeightsError(
                f"a network with {part} ({found[0][:80]} and {len(found) - 1} more), which no "
                "preset here has; use the file of the network without"
            )
