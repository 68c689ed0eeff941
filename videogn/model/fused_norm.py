"""The normalization layers whose call takes what follows them: norm, addition and ReLU as one.

They are torch's own classes, under torch's names and with torch's state dicts, whose forward is
`layer(x, residual=None, relu=False)` and runs `videogn.ops`. A layer without that call (any
function channels -> layer will do for a network) is served by `normalize`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videogn.model.recompute import is_recomputing
from videogn.ops import Impl, batch_norm_act, group_norm_act


class TakesAct:
    """What marks a layer whose forward is `(x, residual=None, relu=False)`."""


def normalize(
    layer: nn.Module, x: Tensor, residual: Tensor | None = None, *, relu: bool = False
) -> Tensor:
    """Returns `relu(layer(x) + residual)` in the shape of x, fused where the layer can."""
    if isinstance(layer, TakesAct):
        return layer(x, residual, relu)
    return act(layer(x), residual, relu)


def act(y: Tensor, residual: Tensor | None, relu: bool) -> Tensor:
    """Returns `relu(y + residual)`, which may be y itself, overwritten."""
    if residual is not None:
        y = y + residual
    return F.relu(y, inplace=True) if relu else y


class GroupNorm(TakesAct, nn.GroupNorm):
    """GN with what follows: (N, C, T, H, W) -> the same shape.

    Args:
        num_groups: G; divides C.
        num_channels: C.
        eps: added to the variance.
        impl: as in `videogn.ops.group_norm_act`.
    """

    def __init__(
        self, num_groups: int, num_channels: int, eps: float = 1e-5, impl: Impl = "auto"
    ) -> None:
        super().__init__(num_groups, num_channels, eps=eps)
        self.impl: Impl = impl

    def forward(  # type: ignore[override] - torch calls x `input`
        self, x: Tensor, residual: Tensor | None = None, relu: bool = False
    ) -> Tensor:
        """Returns `relu(group_norm(x) + residual)`."""
        return group_norm_act(
            x, self.num_groups, self.weight, self.bias, self.eps, residual, relu, self.impl
        )


class BatchNorm3d(TakesAct, nn.BatchNorm3d):
    """BN with what follows: (N, C, T, H, W) -> the same shape.

    With `sub_batch`, a training batch is normalized in parts of so many clips, each by statistics
    of its own, and the running statistics follow the mean of those of the parts: what as many
    processes with `sub_batch` clips each would compute together.

    Args:
        num_features: C.
        eps: added to the variance.
        momentum: weight of the newest batch in the running statistics.
        impl: as in `videogn.ops.batch_norm_act`.
        sub_batch: clips that share statistics; None: all of a batch.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        impl: Impl = "auto",
        sub_batch: int | None = None,
    ) -> None:
        super().__init__(num_features, eps=eps, momentum=momentum)
        self.impl: Impl = impl
        self.sub_batch = sub_batch

    @property
    def statistics_are_the_batchs(self) -> bool:
        """Whether momentum 1 leaves the mean and unbiased variance of a whole batch behind."""
        return self.sub_batch is None

    def forward(  # type: ignore[override] - torch calls x `input`
        self, x: Tensor, residual: Tensor | None = None, relu: bool = False
    ) -> Tensor:
        """Returns `relu(batch_norm(x) + residual)`; in training, running statistics move.

        Raises:
            ValueError: in training, `sub_batch` does not divide the batch.
        """
        if not (self.training and self.sub_batch and len(x) > self.sub_batch):
            running = self.running_mean, self.running_var
            return self._normalize(x, running, self.count(), residual, relu)
        if len(x) % self.sub_batch:
            raise ValueError(
                f"a batch of {len(x)} clips does not fall into sub-batches of {self.sub_batch}; "
                "change the batch or sub_batch to match"
            )
        return self._in_parts(x, residual, relu)

    def count(self) -> float:
        """Returns the weight of this call's batch in the running statistics, having counted it.

        It is 0 for a recomputed call: the first has moved them. The operators must be the same as
        then, of which torch's checkpoints keep count.
        """
        again = is_recomputing()
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(0 if again else 1)
        return 0.0 if again or self.momentum is None else self.momentum

    def _normalize(
        self,
        x: Tensor,
        running: tuple[Tensor | None, Tensor | None],
        momentum: float,
        residual: Tensor | None,
        relu: bool,
    ) -> Tensor:
        training = self.training or self.running_mean is None
        return batch_norm_act(
            x, self.weight, self.bias, *running, training, momentum, self.eps,
            residual, relu, self.impl,
        )  # fmt: skip

    def _in_parts(self, x: Tensor, residual: Tensor | None, relu: bool) -> Tensor:
        """The addition and the ReLU come after the parts are one: what they save is then shared."""
        assert self.sub_batch is not None
        momentum, before = self.count(), (self.running_mean, self.running_var)
        after: list[tuple[Tensor | None, Tensor | None]] = []
        parts = []
        for part in x.split(self.sub_batch):
            mean, var = (None if each is None else each.clone() for each in before)
            parts.append(self._normalize(part, (mean, var), momentum, None, False))
            after.append((mean, var))
        for buffer, *moved in zip(before, *after, strict=True):
            _become_mean(buffer, moved)
        return act(torch.cat(parts), residual, relu)


@torch.no_grad()
def _become_mean(buffer: Tensor | None, moved: Sequence[Tensor | None]) -> None:
    values = [each for each in moved if each is not None]
    if buffer is not None:  # a recomputed call must leave it to the bit, and a mean rounds
        buffer.lerp_(torch.stack(values).mean(0), 0.0 if is_recomputing() else 1.0)


class FrozenBatchNorm3d(TakesAct, nn.Module):
    """BN with fixed statistics, gamma and beta: (N, C, T, H, W) -> the same shape.

    All four are buffers under the names of BN, so that a state dict of either fills the other: an
    optimizer finds no parameter, and training and evaluation are the same function. It is the
    "frozen BN" of arXiv:1803.08494 sec. 4.2 and AffineNd of video-nonlocal-net, whose files hold
    gamma and beta alone: there the mean is 0 and the variance 1 - eps.

    Args:
        num_features: C.
        eps: added to the variance.
        impl: as in `videogn.ops.batch_norm_act`.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_features: int, eps: float = 1e-5, impl: Impl = "auto") -> None:
        super().__init__()
        self.num_features, self.eps = num_features, eps
        self.impl: Impl = impl
        self.register_buffer("weight", torch.ones(num_features))
        self.register_buffer("bias", torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.register_load_state_dict_pre_hook(_drop_counter)  # BN counts its batches, this not

    def forward(self, x: Tensor, residual: Tensor | None = None, relu: bool = False) -> Tensor:
        """Returns `relu(a + residual)`, a = (x - mean) / sqrt(var + eps) * weight + bias."""
        return batch_norm_act(
            x, self.weight, self.bias, self.running_mean, self.running_var, False, 0.0, self.eps,
            residual, relu, self.impl,
        )  # fmt: skip

    def extra_repr(self) -> str:
        """Returns what `repr` shows between the brackets."""
        return f"{self.num_features}, eps={self.eps}"


def _drop_counter(_: nn.Module, state: dict[str, Any], prefix: str, *__: Any) -> None:
    state.pop(f"{prefix}num_batches_tracked", None)
