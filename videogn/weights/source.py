"""What every reader of a file returns: tensors under our names, and what goes with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from videogn.errors import WeightsError

RGB = tuple[float, float, float]
SourceNorm = Literal["bn", "gn", "frozen_bn"]


@dataclass(frozen=True)
class SourceWeights:
    """The content of one file of weights, whatever its layout was.

    Attributes:
        tensors: I3DResNet's names -> float32; kernels (O, I, h, w) or (O, I, T, h, w), RGB input;
            no `num_batches_tracked`.
        norm: "bn" (running statistics in the file), "gn", or "frozen_bn" (batch norm folded into
            a scale and a shift, which comes with mean 0 and variance 1 - eps).
        mean: subtracted from RGB pixels on the [0, 1] scale.
        std: what they are then divided by.
        classes: names of the classes in the order of `fc`, where the file holds them.
        layout: "torchvision", "detectron", "detectron2", "tensorpack", "video-nonlocal-net",
            "pyslowfast", "pytorchvideo", "mmaction2" or "videogn".
        fingerprint: what the layout or the file says of the network trained, under the names of
            `I3DResNet.fingerprint()`; None where it says nothing.
        pixels: in words, what the network of the file was fed; the tensors are converted.
        container: "torch", "pickle", "npz" or "safetensors".
        notes: what matters for its numbers and neither the file nor its layout tells.

    Raises:
        WeightsError: a tensor is not finite.
    """

    tensors: dict[str, Tensor]
    norm: SourceNorm
    mean: RGB
    std: RGB
    classes: tuple[str, ...] | None
    layout: str
    fingerprint: dict[str, Any] | None = None
    pixels: str = ""
    container: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuses weights that are not finite."""
        broken = [name for name, tensor in self.tensors.items() if not tensor.isfinite().all()]
        if broken:
            raise WeightsError(f"NaN or infinity in {', '.join(broken[:20])}")

    @property
    def is_image(self) -> bool:
        """Whether every kernel sees one frame: a network of images, or of frames one by one."""
        return is_image(self.tensors)

    @property
    def width(self) -> int:
        """Channels of the stem; 0 in a file without, which fits no network."""
        return self._rows("conv1.weight")

    @property
    def num_classes(self) -> int:
        """Rows of the classifier; 0 without one."""
        return self._rows("fc.weight")

    def _rows(self, name: str) -> int:
        tensor = self.tensors.get(name)
        return tensor.shape[0] if tensor is not None and tensor.ndim else 0


def is_image(tensors: Mapping[str, Tensor]) -> bool:
    """Returns whether every kernel sees one frame."""
    return all(tensor.shape[2] == 1 for tensor in tensors.values() if tensor.ndim == 5)


def norm_kind(names: Iterable[str]) -> Literal["bn", "gn"]:
    """Returns "bn" if running statistics are among the names of a state dict, else "gn"."""
    return "bn" if any(name.endswith(".running_mean") for name in names) else "gn"
