"""A compiled network trains as the plain one does, and nothing but the steps knows of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engine.test_train import OPTIONS, network, run, state_of, stream, weights
from tests.test_experiment import here, last, read_test, root, train  # noqa: F401 - fixtures too
from videogn import cli
from videogn.model.i3d import I3DResNet, create_model
from videogn.model.norm import NormKind, norm_factory


def thin(kind: NormKind) -> I3DResNet:
    torch.manual_seed(0)
    norm = norm_factory(kind, num_groups=4, brn_warmup_steps=1)
    return create_model("i3d_r14", norm=norm, num_frames=4, crop_size=32, width=8,
                        num_classes=3, dropout=0).train()  # fmt: skip


@pytest.fixture
def traced_only(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Lets torch.compile trace whole and run the trace as it is; returns how it was called."""
    calls: list[dict[str, Any]] = []
    compile_ = torch.compile

    def trace(model: Any, **options: Any) -> Any:
        calls.append(options)
        return compile_(model, fullgraph=True, backend="eager")

    monkeypatch.setattr(torch, "compile", trace)
    return calls


@pytest.mark.parametrize(
    ("how", "mode"), [("compile", "default"), ("graphs", "reduce-overhead"), ("none", None)]
)
def test_steps_are_the_same_and_the_network_is_left_alone(
    how: Any, mode: str | None, traced_only: list[dict[str, Any]]
) -> None:
    plain, compiled = state_of(network("bn")), state_of(network("bn"))
    options = replace(OPTIONS, accumulate=2)
    expected = run(plain, stream(4, split=2), options)
    traced_only.clear()
    recorder = run(compiled, stream(4, split=2), replace(options, compile=how))
    assert recorder.losses == expected.losses
    have, want = weights(compiled), weights(plain)
    assert have.keys() == want.keys()
    assert all(torch.equal(have[name], want[name]) for name in want)
    assert [call["mode"] for call in traced_only] == ([mode] if mode else [])
    assert type(compiled.model) is type(plain.model)


def gradients(model: I3DResNet, forward: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    clips = torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(1))
    forward(clips).square().sum().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gn", "bn", "ln", "in", "brn", "frozen_bn", "sync_bn"])
def test_every_norm_traces_whole(kind: NormKind) -> None:
    plain, model = thin(kind), thin(kind)
    torch.compiler.reset()
    traced = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(
        gradients(model, traced), gradients(plain, plain), rtol=1e-4, atol=1e-5
    )
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-5, atol=1e-6)


def test_cuda_graphs_are_refused_on_a_cpu(
    root: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["--cfg", "demo.yaml", f"data.root={root}", "device=cpu", "model.compile=graphs"]
    assert cli.main(words) == 2
    said = capsys.readouterr().err
    assert "model.compile=graphs records CUDA graphs, and the device is cpu" in said
    assert not Path("runs").exists()


def test_what_a_compiler_recomputes_is_its_own_choice(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--cfg", "demo.yaml", "model.compile=compile", "model.recompute=norm"]
    assert cli.main(words) == 2
    assert "wanted none with model.compile=compile" in capsys.readouterr().err


@pytest.mark.slow
def test_a_compiled_run_goes_on_is_tested_and_its_checkpoint_is_as_any(
    root: Path,  # noqa: F811
) -> None:
    torch.compiler.reset()
    same = ["model.dropout=0", "optim.base_lr=0.032"]  # a compiled dropout draws other numbers
    plain = train(root, "name=plain", *same)
    compiled = train(root, "name=compiled", "model.compile=compile", *same)
    one, other = last(compiled), last(plain)
    assert one["model"].keys() == other["model"].keys()
    for name, value in other["model"].items():
        torch.testing.assert_close(one["model"][name], value, rtol=1e-3, atol=1e-3)
    assert read_test(compiled)["num_decoded"] == read_test(plain)["num_decoded"]
    checkpoint = str(compiled / "checkpoints" / "last.pt")
    assert cli.main(["test", "--ckpt", checkpoint, f"data.root={root}"]) == 0
    train_again = partial(train, root, "name=plain", "model.compile=compile", *same)
    assert train_again() == plain  # it is the same experiment, and finished
