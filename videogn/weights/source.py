"""What every reader of a file returns: tensors under our names, and what goes with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from videogn.errors import WeightsError

RGB = tuple[float, float, float]


@dataclass(frozen=True)
class SourceWeights:
    """The content of one file of weights, whatever its layout was.

    Attributes:
        tensors: I3DResNet's names -> float32; kernels (O, I, h, w) or (O, I, T, h, w), RGB input;
            no `num_batches_tracked`.
        norm: "bn" (running statistics in the file) or "gn".
        mean: subtracted from RGB pixels on the [0, 1] scale.
        std: what they are then divided by.
        classes: names of the classes in the order of `fc`, where the file holds them.
        layout: "torchvision", "detectron" or "videogn".
        fingerprint: what the file says of the network trained, under the names of
            `I3DResNet.fingerprint()`; None where its layout says nothing.

    Raises:
        WeightsError: a tensor is not finite.
    """

    tensors: dict[str, Tensor]
    norm: str
    mean: RGB
    std: RGB
    classes: tuple[str, ...] | None
    layout: str
    fingerprint: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        """Refuses weights that are not finite."""
        broken = [name for name, tensor in self.tensors.items() if not tensor.isfinite().all()]
        if broken:
            raise WeightsError(f"NaN or infinity in {', '.join(broken)}")

    @property
    def is_image(self) -> bool:
        """Whether they are of a network trained on images."""
        return is_image(self.tensors)


def is_image(tensors: Mapping[str, Tensor]) -> bool:
    """Returns whether every kernel sees one frame."""
    return all(tensor.shape[2] == 1 for tensor in tensors.values() if tensor.ndim == 5)


def norm_kind(names: Iterable[str]) -> str:
    """Returns "bn" if running statistics are among the names of a state dict, else "gn"."""
    return "bn" if any(name.endswith(".running_mean") for name in names) else "gn"


def float_tensors(state: Mapping[Any, Any]) -> dict[str, Tensor]:
    """Returns a state dict as float32, without the counters `num_batches_tracked`.

    Raises:
        WeightsError: something in it is not a tensor under a name.
    """
    odd = [k for k, v in state.items() if not isinstance(k, str) or not isinstance(v, Tensor)]
    if odd:
        raise WeightsError(f"not a state dict: {str(odd[0])[:80]!r} is no tensor with a name")
    return {k: v.float() for k, v in state.items() if not k.endswith("num_batches_tracked")}
