"""Memory predicted from shapes: equal to what real tensors take, and to what CUDA would keep."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from videogn import build, cli
from videogn.config import Config, config_from, load_config
from videogn.errors import ConfigError
from videogn.fit import Footprint, largest_batch, norms, predict
from videogn.live_bytes import LiveBytes

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)
BF16 = "optim.amp=bf16"


def experiment(*overrides: str) -> Config:
    values = {
        "name": "fit",
        "model": {"num_classes": 400},
        "data": {"root": "nowhere", "num_frames": 32, "frame_stride": 2},
        "optim": {"clips_per_gpu": 8, "base_lr": 0.01, "epochs": 1},
    }
    return config_from(values, overrides)


THIN = ("model.arch=i3d_r14", "model.width=16", "model.norm.num_groups=4", "data.num_frames=4",
        "data.crop_size=64", "model.num_classes=5", "optim.clips_per_gpu=3")  # fmt: skip


def measured(config: Config) -> tuple[int, int]:
    """Bytes of the distinct storages that a real forward pass saves, by hooks; the peak alive."""
    model = build.build_model(config, 5).train()
    own = {x.untyped_storage().data_ptr() for x in (*model.parameters(), *model.buffers())}
    saved: dict[int, int] = {}

    def note(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return x

    autocast: AbstractContextManager[Any] = nullcontext()
    if config.optim.amp == "bf16":
        autocast = torch.autocast("cpu", torch.bfloat16)
    with LiveBytes() as live, torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        clips = note(torch.randn(3, 3, 4, 64, 64))
        with autocast:
            loss = F.cross_entropy(model(clips).float(), torch.tensor([0, 1, 4]))
        kept = sum(saved.values())
        loss.backward()
    return kept, live.peak


@pytest.mark.parametrize("amp", ["none", "bf16"])
@pytest.mark.parametrize("kind", ["gn", "bn"])
def test_it_is_what_a_real_step_takes(kind: str, amp: str) -> None:
    config = experiment(*THIN, f"model.norm.kind={kind}", f"optim.amp={amp}")
    kept, peak = measured(config)
    predicted = predict(config, device="cpu")
    assert predicted.kept == pytest.approx(kept, rel=0.01)
    assert predicted.working == pytest.approx(peak, rel=0.01)


@pytest.mark.parametrize("mode", ["norm", "block"])
@pytest.mark.filterwarnings("ignore:A saved_tensors_hooks context")
def test_recomputation_is_predicted(mode: str) -> None:
    config = experiment(*THIN, f"model.recompute={mode}")
    peak = measured(config)[1]  # the hooks see what is recomputed as well
    assert predict(config, device="cpu").working == pytest.approx(peak, rel=0.01)


def under_cudas_own_rule(config: Config) -> int:
    """Bytes kept by the forward pass on fake CUDA tensors, with torch's autocast itself."""
    with FakeTensorMode(), torch.device("cuda"):
        model = build.build_model(config, 400).train()
        enabled = config.optim.amp != "none"
        torch.set_autocast_dtype("cuda", torch.bfloat16)
        torch.set_autocast_enabled("cuda", enabled)  # torch.autocast would ask for a GPU
        torch.autocast_increment_nesting()
        try:
            with LiveBytes() as live:
                clips = torch.empty(2, 3, 32, 224, 224)
                logits = model(clips)
                assert logits.grad_fn is not None
                return live.now
        finally:
            torch.autocast_decrement_nesting()
            torch.clear_autocast_cache()
            torch.set_autocast_enabled("cuda", False)


@pytest.mark.parametrize("amp", ["none", "bf16"])
@pytest.mark.parametrize(
    "norm", ["GN, torch's operators", pytest.param("GN, fused kernels", marks=needs_triton),
             "BN, torch's operators"]
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*not channels-last")
def test_cudas_autocast_is_followed(norm: str, amp: str) -> None:
    config = norms(experiment(f"optim.amp={amp}"), "cuda")[norm]
    assert predict(config, batch=2).kept == pytest.approx(under_cudas_own_rule(config), rel=0.001)


def of(*overrides: str) -> Footprint:
    return predict(experiment(*overrides))


@needs_triton
def test_what_the_fused_norm_saves_of_a_whole_step() -> None:
    fused, eager = of(BF16, "model.norm.impl=triton"), of(BF16, "model.norm.impl=aten")
    batch = of(BF16, "model.norm.kind=bn")
    assert fused.kept == pytest.approx(batch.kept, rel=0.01)
    assert fused.total == pytest.approx(batch.total, rel=0.02)
    assert fused.kept <= 0.55 * eager.kept
    plain = of()
    assert eager.kept > 1.1 * plain.kept  # torch's group norm makes mixed precision cost memory
    assert plain.kept == pytest.approx(of("model.norm.kind=bn").kept, rel=0.01)


def test_the_state_is_weights_momentum_and_their_average() -> None:
    model = build.build_model(experiment(*THIN), 5)
    weights = sum(p.nbytes for p in model.parameters())
    assert of(*THIN).state == 2 * weights
    assert of(*THIN, "optim.ema=0.999").state == 3 * weights
    assert of(*THIN, "optim.momentum=0", "optim.nesterov=false").state == weights


@pytest.mark.slow
def test_twice_the_frames_are_half_the_clips() -> None:
    config, budget = experiment(*THIN, "data.crop_size=96"), 200e6
    clips = [largest_batch(config, budget, frames=frames) for frames in (8, 16)]
    assert clips[0] // 2 == pytest.approx(clips[1], abs=1)
    for frames, most in zip((8, 16), clips, strict=True):
        assert predict(config, batch=most, frames=frames).total <= budget
        assert predict(config, batch=most + 1, frames=frames).total > budget
    assert largest_batch(config, 1e6) == 0


def test_predicting_leaves_the_random_numbers_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    predict(experiment(*THIN))
    assert torch.equal(torch.rand(2), expected)


def test_the_command_prints_what_fits(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["fit", "--cfg", "i3d_gn_64f", "--memory", "3", "--frames", "32", "--batch", "2,8"]
    assert cli.main([*words, BF16, "model.arch=i3d_r14"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "i3d_r14 at 224 pixels, amp=bf16" in lines[0]
    assert "90% of 3.0 GB" in lines[1]
    rows = {line[:22].strip(): line.split() for line in lines[4:]}
    assert rows.keys() == set(norms(experiment(), "cuda"))
    assert int(rows["GN, fused kernels"][-1]) > 1.5 * int(rows["GN, torch's operators"][-1])
    assert rows["GN, torch's operators"][-2].startswith("(")  # 8 clips do not fit
    assert not rows["GN, fused kernels"][-3].startswith("(")


@pytest.mark.parametrize("memory", ["abc", "0", "nan", "inf"])
def test_a_memory_that_is_no_number_is_refused(
    memory: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli.main(["fit", "--cfg", "i3d_gn_64f", "--memory", memory])
    said = capsys.readouterr().err
    assert f"--memory: '{memory}' is not a number of gigabytes above zero, such as 24" in said


# LiveBytes


def alive(work: Callable[[], object]) -> tuple[int, int]:
    with LiveBytes() as live:
        result = work()
        now = live.now
        del result
        assert live.now == 0
    return now, live.peak


def test_a_view_and_a_change_in_place_cost_nothing() -> None:
    given = torch.zeros(4)
    assert alive(lambda: given.view(2, 2).add_(1)) == (0, 0)
    assert alive(lambda: torch.zeros(8)[:2].add_(1)) == (32, 32)


def test_a_temporary_counts_while_it_lives() -> None:
    assert alive(lambda: torch.zeros(8).double().sum(dtype=torch.float32)) == (4, 96)


def test_a_step_that_cannot_be_taken_is_said_to_be_so() -> None:
    words = ["data.root=none", "data.num_frames=8", "data.crop_size=32", "optim.clips_per_gpu=1"]
    with pytest.raises(ConfigError, match=r"a step of 1 clip\(s\) cannot be taken: batch norm"):
        predict(load_config("i3d_bn_64f", words))
