"""The I3D ResNet of Table 8: torchvision's ResNet with time.

Follows `resnet_video_org` of video-nonlocal-net, the network behind the 32-frame baseline of
arXiv:1711.07971 that arXiv:1803.08494 sec. 4.3 starts from. For a 64-frame clip at 224 x 224:

    conv1   5x7x7, stride 2,2,2              64 x 32 x 112 x 112
    pool1   2x3x3, stride 2,2,2              64 x 16 x  55 x  55
    layer1  3 blocks, conv1 3x1x1           256 x 16 x  55 x  55
    pool2   2x1x1, stride 2,1,1             256 x  8 x  55 x  55
    layer2  4 blocks, conv1 3x1x1 or 1x1x1  512 x  8 x  28 x  28
    layer3  6 blocks, the same             1024 x  8 x  14 x  14
    layer4  3 blocks, the same             2048 x  8 x   7 x   7
    mean over 8x7x7, dropout, fc
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videogn.model.fused_norm import normalize
from videogn.model.norm import NormFactory, NormKind, norm_factory
from videogn.model.recompute import RECOMPUTE, Recompute, recomputed


@dataclass(frozen=True)
class Arch:
    """A variant of the network: where it looks at, and where it shrinks, time.

    Attributes:
        kernels_t: temporal kernel of each residual block's first convolution, stage by stage.
        stem_kernel_t: temporal kernel of the stem.
        stem_stride_t: temporal stride of the stem.
        pool1_t: frames that the pool after the stem takes the maximum of.
        pool1_stride_t: temporal stride of that pool.
        pool2_t: kernel and stride in time of the pool after the first stage.
        stride_1x1: halve space in the first convolution of a stage, as the ResNets of MSRA do,
            instead of in the 1x3x3.
    """

    kernels_t: tuple[tuple[int, ...], ...]
    stem_kernel_t: int = 5
    stem_stride_t: int = 2
    pool1_t: int = 2
    pool1_stride_t: int = 2
    pool2_t: int = 2
    stride_1x1: bool = False

    def image(self) -> Arch:
        """Returns the 2-D network of the same depth, which sees one frame."""
        return Arch(_ones(self.kernels_t), 1, 1, 1, 1, 1, self.stride_1x1)


def _ones(kernels_t: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(1 for _ in stage) for stage in kernels_t)


_I3D_50 = ((3, 3, 3), (3, 1, 3, 1), (3, 1, 3, 1, 3, 1), (1, 3, 1))
_I3D_101 = ((3, 3, 3), (3, 1, 3, 1), (3, 1) * 11 + (3,), (1, 3, 1))
_C2D_50 = _ones(_I3D_50)
_SLOW_50 = ((1,) * 3, (1,) * 4, (3,) * 6, (3,) * 3)

# In time: kernels of the blocks; kernel and stride of the stem, of pool1; both of pool2
ARCHS: dict[str, Arch] = {
    # video-nonlocal-net's for 32 x 2 frames: VIDEO_ARC_CHOICE 2, 4 and 1
    "i3d_r50": Arch(_I3D_50, 5, 2, 2, 2, 2),
    "i3d_r101": Arch(_I3D_101, 5, 2, 2, 2, 2),
    "c2d_r50_nonlocal": Arch(_C2D_50, 1, 2, 2, 2, 2),
    # PySlowFast's and PyTorchVideo's for 8 x 8
    "i3d_r50_8x8": Arch(_I3D_50, 5, 1, 1, 1, 2),
    "c2d_r50": Arch(_C2D_50, 1, 1, 1, 1, 2),
    "slow_r50": Arch(_SLOW_50, 1, 1, 1, 1, 1),
    # MMAction2's: pool1 leaves out every other frame
    "i3d_r50_mmaction": Arch(_I3D_50, 5, 2, 1, 2, 2),
    # for ResNets of MSRA, such as Detectron's R-50.pkl
    "i3d_r50_stride1x1": Arch(_I3D_50, 5, 2, 2, 2, 2, stride_1x1=True),
    # small: the demo's and the tests'
    "i3d_r14": Arch(((3,), (3,), (3,), (3,)), 5, 1, 1, 1, 2),
}


class Bottleneck3d(nn.Module):
    """A residual block: (N, C, T, H, W) -> (N, 4 * width, T, H / stride, W / stride).

    Time is looked at by the first convolution alone, kernel (kernel_t, 1, 1); the spatial stride
    is in the 1x3x3, as in torchvision, or with `stride_1x1` in the first convolution.
    """

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        width: int,
        *,
        norm: NormFactory,
        kernel_t: int = 1,
        stride: int = 1,
        stride_1x1: bool = False,
    ) -> None:
        super().__init__()
        out_channels = self.expansion * width
        first, second = (stride, 1) if stride_1x1 else (1, stride)
        self.conv1 = _conv(in_channels, width, (kernel_t, 1, 1), stride=(1, first, first))
        self.norm1 = norm(width)
        self.conv2 = _conv(width, width, (1, 3, 3), stride=(1, second, second))
        self.norm2 = norm(width)
        self.conv3 = _conv(width, out_channels, (1, 1, 1))
        self.norm3 = norm(out_channels)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                _conv(in_channels, out_channels, (1, 1, 1), stride=(1, stride, stride)),
                norm(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Returns `relu(f(x) + shortcut(x))`."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y = normalize(self.norm1, self.conv1(x), relu=True)
        y = normalize(self.norm2, self.conv2(y), relu=True)
        return normalize(self.norm3, self.conv3(y), shortcut, relu=True)


class I3DResNet(nn.Module):
    """An I3D ResNet: normalized float clips (N, 3, T, H, W) -> logits (N, K).

    Fully convolutional in space and time. The last map is averaged over a window of the size it
    has for `num_frames` frames at `crop_size`, with stride 1, so that a larger or longer clip
    gives several positions: `forward` averages their logits, `probs` their probabilities.

    Args:
        arch: the variant.
        norm: channels -> normalization layer.
        num_classes: K.
        num_frames: frames of a training clip.
        crop_size: height and width of a training clip, pixels.
        width: channels of the stem; 64 is the ResNet, less is a thin network for tests.
        dropout: probability of dropping a feature before the classifier.
        stem_pool_padding: spatial padding of the 3x3 max pool after the stem. 0 as in
            video-nonlocal-net; 1 as in torchvision, PySlowFast and PyTorchVideo.
        zero_init_residual: start each residual branch at zero (gamma of its last norm,
            arXiv:1706.02677 sec. 5.1). Pre-trained weights overwrite it.
        recompute: what the backward pass computes again rather than keeps: "none"; "norm", all
            but convolutions; "block", each residual block and what lies between stem and first.
            The results are the same to the bit.

    Raises:
        ValueError: an unknown `recompute`, the training clip is too small for the network, or a
            norm refuses its channels.
    """

    def __init__(  # noqa: PLR0913 - each a choice of an experiment
        self,
        arch: Arch,
        norm: NormFactory,
        *,
        num_classes: int,
        num_frames: int,
        crop_size: int,
        width: int = 64,
        dropout: float = 0.5,
        stem_pool_padding: int = 0,
        zero_init_residual: bool = True,
        recompute: Recompute = "none",
    ) -> None:
        super().__init__()
        if recompute not in RECOMPUTE:
            raise ValueError(f"unknown recompute {recompute!r}; known: {', '.join(RECOMPUTE)}")
        self.arch = arch
        self.recompute: Recompute = recompute
        self.num_frames, self.crop_size = num_frames, crop_size
        self.stem_pool_padding = stem_pool_padding
        self.conv1 = _conv(3, width, (arch.stem_kernel_t, 7, 7), stride=(arch.stem_stride_t, 2, 2))
        self.norm1 = norm(width)
        in_channels = width
        for stage, kernels_t in enumerate(arch.kernels_t):
            blocks: list[nn.Module] = []
            for i, kernel_t in enumerate(kernels_t):
                stride = 2 if i == 0 and stage > 0 else 1
                block_width = width * 2**stage
                block = Bottleneck3d(
                    in_channels,
                    block_width,
                    norm=norm,
                    kernel_t=kernel_t,
                    stride=stride,
                    stride_1x1=arch.stride_1x1,
                )
                blocks.append(block)
                in_channels = Bottleneck3d.expansion * block_width
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(in_channels, num_classes)
        self.window = self.feature_size(num_frames, crop_size, crop_size)
        if min(self.window) < 1:
            raise ValueError(
                f"a clip of {num_frames} frames at {crop_size} pixels is too small: the last map "
                f"would be {'x'.join(map(str, self.window))}"
            )
        self._initialize(zero_init_residual)

    def _initialize(self, zero_init_residual: bool) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if zero_init_residual and isinstance(module, Bottleneck3d):
                gamma = module.norm3.weight
                if isinstance(gamma, nn.Parameter):  # a frozen zero would stay one
                    nn.init.zeros_(gamma)
        nn.init.normal_(self.fc.weight, std=0.01)  # video-nonlocal-net's classifier
        nn.init.zeros_(self.fc.bias)

    @property
    def stages(self) -> list[nn.Module]:
        """The residual stages, `layer1` first."""
        return [self.get_submodule(f"layer{i + 1}") for i in range(len(self.arch.kernels_t))]

    def feature_size(self, num_frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Returns the (T, H, W) of the last map for a clip of that size.

        With stride 2 in the stem this is (num_frames / 8, height / 32, width / 32), rounded.
        """
        t = math.ceil(num_frames / self.arch.stem_stride_t)
        t = (t - self.arch.pool1_t) // self.arch.pool1_stride_t + 1
        t = t // self.arch.pool2_t

        def side(pixels: int) -> int:
            pixels = (math.ceil(pixels / 2) + 2 * self.stem_pool_padding - 3) // 2 + 1
            return math.ceil(pixels / 2 ** (len(self.arch.kernels_t) - 1))

        return t, side(height), side(width)

    def forward_features(self, clips: Tensor) -> Tensor:
        """Returns the last map: (N, 3, T, H, W) -> (N, 32 * width, T', H', W')."""
        mode = self.recompute if self.training else "none"
        x = recomputed(self._after_stem, self.conv1(clips), mode)
        for i, stage in enumerate(self.stages):
            for block in [stage] if mode == "none" else stage.children():
                x = recomputed(block, x, mode)
            if i == 0:
                x = max_pool_frames(x, self.arch.pool2_t)
        return x

    def _after_stem(self, x: Tensor) -> Tensor:
        x = normalize(self.norm1, x, relu=True)
        x = max_pool_frames(x, self.arch.pool1_t, self.arch.pool1_stride_t)
        return max_pool_pixels(x, kernel=3, stride=2, padding=self.stem_pool_padding)

    def forward_positions(self, clips: Tensor) -> Tensor:
        """Returns the logits at each position of the head's window: (N, 3, T, H, W) -> (N, P, K).

        P is 1 for a clip of the training size. Raises as `pooled` does.
        """
        return self.fc(self.dropout(self.pooled(clips)))

    def pooled(self, clips: Tensor) -> Tensor:
        """Returns what `fc` sees at each position: (N, 3, T, H, W) -> (N, P, 32 * width).

        Raises:
            ValueError: the clip is smaller than a training clip.
        """
        size = self.feature_size(*clips.shape[2:])
        if any(have < need for have, need in zip(size, self.window, strict=True)):
            raise ValueError(
                f"a clip of {'x'.join(map(str, clips.shape[2:]))} (T, H, W) is smaller than the "
                f"{self.num_frames}x{self.crop_size}x{self.crop_size} that the network was made for"
            )
        x = self.forward_features(clips)
        if size == self.window:
            x = x.mean((2, 3, 4)).unsqueeze(1)  # no layout change, unlike avg_pool3d on CUDA
        else:
            x = F.avg_pool3d(x.float(), self.window, stride=1).to(x.dtype)
            x = x.flatten(2).transpose(1, 2)
        return x

    def forward(self, clips: Tensor) -> Tensor:
        """Returns logits, averaged over positions: (N, 3, T, H, W) -> (N, K)."""
        return self.forward_positions(clips).mean(1)

    def probs(self, clips: Tensor) -> Tensor:
        """Returns the softmax at each position, averaged: (N, 3, T, H, W) -> (N, K), float32."""
        return self.forward_positions(clips).float().softmax(-1).mean(1)

    def fingerprint(self) -> dict[str, Any]:
        """Returns what shapes the function computed, in plain values.

        A state dict does not hold it: weights trained with 32 groups load into 8 without a word.
        """
        norm = self.norm1
        shape: dict[str, Any] = {"norm": _function_of(norm), "eps": norm.eps}
        groups = [m.num_groups for m in self.modules() if isinstance(m, nn.GroupNorm)]
        if groups:  # one number where it is the same in every layer
            shape["groups"] = groups[0] if len(set(groups)) == 1 else groups
        arch = asdict(self.arch) | {"kernels_t": [list(stage) for stage in self.arch.kernels_t]}
        return shape | {
            **arch,
            "stem_pool_padding": self.stem_pool_padding,
            "width": self.conv1.out_channels,
            "num_classes": self.fc.out_features,
            "window": list(self.window),
        }


def _function_of(norm: nn.Module) -> str:
    """The kinds of BN that differ in training alone are one function, under torch's name."""
    is_bn = isinstance(norm, nn.modules.batchnorm._BatchNorm)
    return "BatchNorm3d" if is_bn else type(norm).__name__


def complete_fingerprint(stated: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a stored fingerprint with the entries that all networks shared when it was made.

    One that says nothing of pools, of weights of another project, is returned as it is.
    """
    if "pool1_t" not in stated:
        return dict(stated)
    return {"pool1_stride_t": stated["pool1_t"], "stride_1x1": False, **stated}


def create_model(
    arch: str = "i3d_r50",
    *,
    norm: NormKind | NormFactory = "gn",
    num_frames: int = 64,
    crop_size: int = 224,
    num_classes: int = 400,
    **options: Any,
) -> I3DResNet:
    """Returns an I3D network with random weights: clips (N, 3, T, H, W) -> logits (N, K).

    A clip is RGB, `(pixels / 255 - mean) / std`. One larger or longer than a training clip gives
    the mean of the logits at all positions of the head's window; `probs` gives the probabilities.

    Args:
        arch: a name in `ARCHS`; the networks of arXiv:1711.07971 (I3D, C2D) and arXiv:1812.03982
            (Slow), as the projects that published weights of them built them.
        norm: "gn" (32 groups; arXiv:1803.08494), "bn", "ln", "in", "brn", "frozen_bn", "sync_bn",
            or any function channels -> layer over (N, C, T, H, W).
        num_frames: frames of a training clip.
        crop_size: pixels of a training clip's side.
        num_classes: K.
        **options: `width`, `dropout`, `stem_pool_padding`, `zero_init_residual`,
            `recompute` of `I3DResNet`.

    Raises:
        ValueError: an unknown `arch` or `norm`, a norm that refuses its channels, or a training
            clip too small for the network.
    """
    if arch not in ARCHS:
        raise ValueError(f"unknown arch {arch!r}; known: {', '.join(ARCHS)}")
    factory = norm if callable(norm) else norm_factory(norm)
    return I3DResNet(
        ARCHS[arch],
        factory,
        num_classes=num_classes,
        num_frames=num_frames,
        crop_size=crop_size,
        **options,
    )


def max_pool_frames(x: Tensor, kernel: int, stride: int | None = None) -> Tensor:
    """Returns the maximum over `kernel` frames, each `stride`: (N, C, T, H, W) -> (N, C, T', H, W).

    T' is (T - kernel) // stride + 1; the stride is the kernel unless given. With `max_pool_pixels`
    it makes the 3-D max pool: the same numbers in the same memory format, without MaxPool3d's
    backward, which deterministic CUDA refuses, and its int64 indices.
    """
    stride = stride or kernel
    reach = (x.shape[2] - kernel) // stride * stride + 1  # from the first window to after the last
    y = x[:, :, 0:reach:stride]
    for i in range(1, kernel):
        y = torch.maximum(y, x[:, :, i : i + reach : stride])
    return y


def max_pool_pixels(x: Tensor, *, kernel: int, stride: int, padding: int) -> Tensor:
    """Returns the spatial max pool of each frame: (N, C, T, H, W) -> (N, C, T, H', W').

    Time is folded into the dimension next to it in memory, so that nothing is copied and the
    memory format stays: into the clips for channels_last_3d, else into the channels.
    """
    clips, channels, frames = x.shape[:3]
    if x.is_contiguous(memory_format=torch.channels_last_3d) and not x.is_contiguous():
        y = F.max_pool2d(x.transpose(1, 2).flatten(0, 1), kernel, stride, padding)
        return y.unflatten(0, (clips, frames)).transpose(1, 2)
    y = F.max_pool2d(x.flatten(1, 2), kernel, stride, padding)
    return y.unflatten(1, (channels, frames))


def _conv(
    in_channels: int,
    out_channels: int,
    kernel: Sequence[int],
    *,
    stride: tuple[int, int, int] = (1, 1, 1),
) -> nn.Conv3d:
    """Returns a convolution without bias (a norm follows), padded to keep the size at stride 1."""
    size_t, height, width = kernel
    padding = (size_t // 2, height // 2, width // 2)
    return nn.Conv3d(
        in_channels, out_channels, (size_t, height, width), stride, padding, bias=False
    )
