"""videogn: video classification with a normalization you choose, and its cost made visible.

model = videogn.create_model("i3d_r50", norm="gn", num_frames=64, crop_size=224)
report = videogn.load_weights(model, "R-50-GN.pkl")
videogn.load("best.pt").predict("clip.mp4", topk=5)     # [(label, probability), ...]
videogn.swap_norm(r3d_18(), "gn")                          # every 3-D norm, in place
videogn.open_video("clip.mp4").frames([0, 2, 4])        # uint8 (3, H, W, 3) RGB
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from videogn.data.decode import open_video
    from videogn.model.i3d import create_model
    from videogn.model.swap import swap_norm
    from videogn.predict import load
    from videogn.weights import load_weights

__version__ = "0.1.0"
__all__ = ["create_model", "load", "load_weights", "open_video", "swap_norm"]

# Imported when first asked for: `run.py --help` and a refused config need not wait for torch.
_HOMES = {
    "create_model": "videogn.model.i3d",
    "load": "videogn.predict",
    "load_weights": "videogn.weights",
    "open_video": "videogn.data.decode",
    "swap_norm": "videogn.model.swap",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'videogn' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
