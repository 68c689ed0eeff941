"""The network: normalization, the I3D ResNet, and 2-D to 3-D inflation."""

from videogn.model.fused_norm import FrozenBatchNorm3d
from videogn.model.i3d import ARCHS, Arch, I3DResNet, create_model
from videogn.model.inflate import inflate_kernel, inflate_state_dict
from videogn.model.norm import NormFactory, norm_factory

__all__ = [
    "ARCHS",
    "Arch",
    "FrozenBatchNorm3d",
    "I3DResNet",
    "NormFactory",
    "create_model",
    "inflate_kernel",
    "inflate_state_dict",
    "norm_factory",
]
