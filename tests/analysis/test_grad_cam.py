"""Grad-CAM: against its closed form, and on a network that looks at one corner for a while."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.videos import decode_all, write_numbered
from videogn.analysis.cam_video import blend, no_heat, write_cam
from videogn.analysis.grad_cam import Heat, find_layer, frame_maps, grad_cam, heat_of_video
from videogn.data.dataset import ViewSpec
from videogn.data.pyav_reader import PyAVReader
from videogn.errors import ConfigError
from videogn.model import create_model, norm_factory

SPEC = ViewSpec(
    num_frames=8, frame_stride=1, num_clips=1, clip_rule="nonlocal", crops="center",
    short_side=64, crop_size=64,
)  # fmt: skip


class Corner(nn.Module):
    """Sees the upper left quarter in the second half of a clip; a class for it, one against it."""

    def __init__(self) -> None:
        super().__init__()
        self.eye = nn.Identity()

    def forward(self, clips: Tensor) -> Tensor:
        maps = nn.functional.avg_pool3d(clips.mean(1, keepdim=True), (2, 16, 16)).abs() + 1
        seen = torch.zeros_like(maps)
        seen[:, :, 2:, :2, :2] = maps[:, :, 2:, :2, :2]
        total = self.eye(seen).mean((1, 2, 3, 4))
        return torch.stack([total, -total, 0 * total], 1)


def to_input(clips: Tensor) -> Tensor:
    return clips.permute(0, 4, 1, 2, 3).float() / 255


def heats_of(path: Path, class_id: int = 0) -> list[Heat]:
    model = Corner()
    with PyAVReader(path) as video:
        return heat_of_video(video, model, model.eye, class_id, SPEC, to_input=to_input)


@pytest.mark.parametrize("class_id", [0, 2])
def test_it_is_the_closed_form_where_a_linear_classifier_follows_the_mean(class_id: int) -> None:
    model = create_model(
        "i3d_r14", norm=norm_factory("gn", num_groups=4), num_frames=8, crop_size=64,
        num_classes=3, width=8, zero_init_residual=False,
    )  # fmt: skip
    model.requires_grad_(False)
    clip = torch.randn(1, 3, 8, 64, 64)
    heat, logits = grad_cam(model, model.get_submodule("layer4"), clip, class_id)
    maps = model.forward_features(clip)[0]
    weighted = (model.fc.weight[class_id][:, None, None, None] * maps).sum(0)
    torch.testing.assert_close(heat, weighted.relu() / maps[0].numel())
    torch.testing.assert_close(logits, model(clip)[0])
    assert 0 < (heat > 0).float().mean() < 1
    assert all(parameter.grad is None for parameter in model.parameters())


def test_an_inner_layer_is_weighted_by_what_its_maps_change_in_the_logit() -> None:
    """By hand: each map is raised and lowered a little everywhere, and the rest runs again."""
    torch.manual_seed(0)
    model = create_model(
        "i3d_r14", norm=norm_factory("gn", num_groups=4), num_frames=4, crop_size=32,
        num_classes=3, width=8, zero_init_residual=False,
    ).double().eval()  # fmt: skip
    layer, clip, step = model.get_submodule("layer3"), torch.randn(1, 3, 4, 32, 32).double(), 1e-5
    maps: list[Tensor] = []
    with layer.register_forward_hook(lambda _, __, output: maps.append(output.detach())):
        model(clip)

    @torch.no_grad()
    def logits(channel: int, change: float) -> Tensor:
        raised = maps[0].clone()
        raised[:, channel] += change
        with layer.register_forward_hook(lambda *_: raised):
            return model(clip)[0]

    number, positions = maps[0].shape[1], maps[0][0, 0].numel()
    slopes = torch.stack([logits(k, step) - logits(k, -step) for k in range(number)]) / (2 * step)
    weighted = torch.einsum("kc,kthw->cthw", slopes, maps[0][0]).relu() / positions
    heats = torch.stack([grad_cam(model, layer, clip, class_id)[0] for class_id in range(3)])
    torch.testing.assert_close(heats.double(), weighted, rtol=1e-4, atol=1e-8)
    assert heats.max() > 0


def test_an_inner_layer_gives_a_finer_map() -> None:
    model = create_model(
        "i3d_r14", norm=norm_factory("bn"), num_frames=8, crop_size=64, num_classes=3, width=8
    )
    layer = find_layer(model, "layer2.0.conv2")
    heat, _ = grad_cam(model, layer, torch.randn(1, 3, 8, 64, 64), 1)
    assert heat.shape == (4, 8, 8)
    with pytest.raises(ConfigError, match=r"--layer layer9: the network has conv1, .*layer4"):
        find_layer(model, "layer9")
    with pytest.raises(ConfigError, match=r"--layer: a Linear gives an output of shape \(1, .*3\)"):
        grad_cam(model, find_layer(model, "fc"), torch.randn(1, 3, 8, 64, 64), 1)


def test_heat_is_where_and_when_the_network_looks_and_not_for_a_class_against_it(
    tmp_path: Path,
) -> None:
    path = write_numbered(tmp_path / "a.mp4", 16)
    heats = heats_of(path)
    assert [(heat.first, heat.frames) for heat in heats] == [(0, 8), (8, 8)]
    assert [(heat.start, round(heat.end, 3)) for heat in heats] == [(0, 0.267), (8 / 30, 0.533)]
    for heat in heats:
        assert heat.map.shape == (4, 4, 4)
        assert heat.map[2:, :2, :2].min() > 0
        assert heat.map.sum() == heat.map[2:, :2, :2].sum()
        assert 1 / 3 < heat.probability < 1
    assert not no_heat(heats)
    assert no_heat(heats_of(path, class_id=1))


@pytest.mark.parametrize(("frames", "windows"), [(19, [0, 8, 11]), (16, [0, 8]), (5, [0])])
def test_every_frame_of_a_video_has_one_map(
    tmp_path: Path, frames: int, windows: list[int]
) -> None:
    heats = heats_of(write_numbered(tmp_path / "a.mp4", frames))
    assert [heat.first for heat in heats] == windows
    maps = list(frame_maps(heats))
    assert len(maps) == frames
    if frames == 19:  # the last 3 are those of the last window, whose map is at its end
        torch.testing.assert_close(maps[16], heats[2].over_time()[5])


def test_the_copy_of_a_video_is_warm_in_that_corner_at_that_time_alone(tmp_path: Path) -> None:
    path = write_numbered(tmp_path / "a.mp4", 8, options={"crf": "4"})
    kept = write_cam(str(path), tmp_path / "out.mp4", heats_of(path), "corner", 0)
    change = np.abs(kept.astype(int) - decode_all(path).astype(int)).mean(-1)
    assert change[:3].max() == 0
    assert change[5:, :20, :20].mean() > 30
    assert change[:, 42:].max() == 0
    assert change[:, :, 42:].max() == 0
    drawn = decode_all(tmp_path / "out.mp4")
    assert drawn.shape == (8, 320, 320, 3)


def test_a_copy_that_breaks_off_leaves_no_part_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left on device")

    path, target = write_numbered(tmp_path / "a.mp4", 8), tmp_path / "out.mp4"
    target.write_bytes(b"of an earlier analysis")
    monkeypatch.setattr("videogn.analysis.cam_video.LabelledVideo.add", full)
    with pytest.raises(OSError, match="no space left"):
        write_cam(str(path), target, heats_of(path), "corner", 0)
    assert not target.exists()


def test_blending_keeps_what_is_cold_and_covers_what_is_hot() -> None:
    image = np.full((4, 8, 3), 100, np.uint8)
    warm = blend(image, torch.tensor([[0.0, 1.0]]))
    assert (warm[:, 0] == 100).all()
    assert (
        warm[:, -1] == np.round(25 + 0.75 * 255 * np.array([0.988362, 0.998364, 0.644924]))
    ).all()
