"""Where and when a network looks: Grad-CAM (arXiv:1610.02391) over space and time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videogn.data.dataset import ViewSpec
from videogn.data.pyav_reader import PyAVReader
from videogn.errors import ConfigError
from videogn.predict.views import window_starts, windows

LAYER = "layer4"


@dataclass(frozen=True)
class Heat:
    """What speaks for a class in one window of a video.

    Attributes:
        first: frame of the video that the window begins with.
        frames: of the video that it covers.
        start, end: seconds.
        map: float32 (T', H', W'), at least 0, over the whole window and the whole frame.
        probability: of the class in the window.
    """

    first: int
    frames: int
    start: float
    end: float
    map: Tensor
    probability: float

    def over_time(self) -> Tensor:
        """Returns the map for each frame that it covers: (frames, H', W')."""
        _, height, width = self.map.shape
        size = (self.frames, height, width)
        grown = F.interpolate(self.map[None, None], size, mode="trilinear", align_corners=False)
        return grown[0, 0]


def grad_cam(
    model: nn.Module, layer: nn.Module, clip: Tensor, class_id: int
) -> tuple[Tensor, Tensor]:
    """Returns what speaks for a class, float32 (T', H', W') on the CPU, and the logits (K,).

    It is `relu(sum_k w_k A_k)`: A_k are the maps that `layer` gives, w_k the mean over positions
    of the derivative of the class's logit by A_k. The network is left in evaluation mode.

    Args:
        model: (1, 3, T, H, W) -> logits (1, K).
        layer: of it, with an output (1, C, T', H', W').
        clip: normalized, (1, 3, T, H, W).
        class_id: of the class.

    Raises:
        ConfigError: the layer gives no maps.
    """
    kept: list[Tensor] = []

    def cut(_: nn.Module, __: object, output: Tensor) -> Tensor:
        if output.dim() != 5:
            raise ConfigError(
                f"--layer: a {type(layer).__name__} gives an output of shape "
                f"{tuple(output.shape)}, not maps over time and space; name one before the pooling"
            )
        kept.append(output.detach().requires_grad_())  # nothing before it needs a gradient
        return kept[-1]

    model.eval()
    with layer.register_forward_hook(cut), torch.enable_grad():
        logits = model(clip)
        (gradient,) = torch.autograd.grad(logits[0, class_id], kept[-1])
    weights = gradient.mean((2, 3, 4), keepdim=True)
    heat = (weights * kept[-1].detach()).sum(1)[0].relu()
    return heat.float().cpu(), logits[0].detach().float().cpu()


def find_layer(model: nn.Module, name: str) -> nn.Module:
    """Returns a layer by name; ConfigError if there is none of that name."""
    try:
        return model.get_submodule(name)
    except AttributeError as error:
        known = ", ".join(child for child, _ in model.named_children())
        raise ConfigError(
            f"--layer {name}: the network has {known}, and what is in them"
        ) from error


def heat_of_video(
    video: PyAVReader,
    model: nn.Module,
    layer: nn.Module,
    class_id: int,
    spec: ViewSpec,
    *,
    to_input: Callable[[Tensor], Tensor],
    shown: Callable[[Iterator[Heat], int], Iterator[Heat]] = lambda items, _: items,
) -> list[Heat]:
    """Returns the heat of every window of a video, side by side, the last one ending with it.

    Args:
        video: of any length.
        model: see `grad_cam`.
        layer: likewise.
        class_id: likewise.
        spec: length, stride and size of a window; all of the frame is looked at.
        to_input: uint8 clips -> the network's input.
        shown: shows the progress of so many windows.
    """
    spec = replace(spec, crops="full")
    span = spec.num_frames * spec.frame_stride
    starts = window_starts(video, span, None)

    def heats() -> Iterator[Heat]:
        for first, piece in zip(starts, windows(video, spec, None), strict=True):
            clip = to_input(piece.views[0].cut()[None])
            heat, logits = grad_cam(model, layer, clip, class_id)
            probability = float(logits.softmax(-1)[class_id])
            frames = min(span, video.num_frames - first)
            covered = _covered(heat, frames, span)
            yield Heat(first, frames, piece.start, piece.end, covered, probability)

    return list(shown(heats(), len(starts)))


def _covered(heat: Tensor, frames: int, span: int) -> Tensor:
    """Returns the part of a map that frames of the video fill: a short video is looped."""
    if frames == span:
        return heat
    return heat[: max(1, round(len(heat) * frames / span))]


def frame_maps(heats: Sequence[Heat]) -> Iterator[Tensor]:
    """Yields the map (H', W') of each frame of the video: of the first window that covers it."""
    done = 0
    for heat in heats:
        yield from heat.over_time()[done - heat.first :]
        done = heat.first + heat.frames
