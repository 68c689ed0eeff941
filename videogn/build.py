"""The composition root: a Config becomes a model, loaders, an optimizer.

Here the config stops: everything below takes plain arguments and works without one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from videogn.config import Config, to_dict
from videogn.data.dataset import (
    ClipSpec,
    EvalVideos,
    OpenVideo,
    TrainClips,
    ViewSpec,
    clip_loader,
    keyed_batches,
    video_loader,
)
from videogn.data.decode import VideoReader, import_decoder, open_video
from videogn.data.frame_index import FrameIndex
from videogn.data.manifest import Manifest, read_manifest
from videogn.data.order import Stream, epoch_order
from videogn.data.transforms import to_network
from videogn.engine.distributed import Ranks
from videogn.engine.ema import Ema
from videogn.engine.schedule import Schedule, parameter_groups
from videogn.engine.state import TrainOptions, TrainState
from videogn.engine.wandb_mirror import Limits, WandbMirror
from videogn.errors import ConfigError, NoDataRootError
from videogn.model.i3d import ARCHS, I3DResNet
from videogn.model.norm import NormFactory, norm_factory, norm_layers
from videogn.ops.dispatch import Impl, choose

# RGB on [0, 1]: what a network without pre-trained weights is fed, as video-nonlocal-net does.
DEFAULT_MEAN = [0.45, 0.45, 0.45]
DEFAULT_STD = [0.225, 0.225, 0.225]


def pick_device(config: Config) -> torch.device:
    """Returns the device of this process: the configured one, or the best of cuda > mps > cpu."""
    kind = config.device
    if kind == "auto":
        mps = torch.backends.mps.is_available()
        kind = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    if kind == "cuda":
        if not torch.cuda.is_available():
            raise ConfigError("device=cuda, but torch sees no CUDA device; use device=auto")
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device(kind)


def set_up_torch(config: Config, device: torch.device) -> None:
    """Makes torch's algorithms repeat to the bit or as fast as they can be, and shares the cores.

    On a CPU the network leaves cores to the workers, up to half of them: with two threads beside
    two workers on two cores, a thin network took 13 times as long as with one.

    Raises:
        ConfigError: `model.compile=graphs` without a GPU.
    """
    if config.model.compile == "graphs" and device.type != "cuda":
        raise ConfigError(
            f"model.compile=graphs records CUDA graphs, and the device is {device.type}; use "
            "model.compile=compile or none"
        )
    if device.type == "cpu":
        share = max(cores() - config.data.num_workers, cores() // 2, 1)
        torch.set_num_threads(min(torch.get_num_threads(), share))
    torch.backends.cudnn.benchmark = not config.deterministic
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for one
    torch.use_deterministic_algorithms(config.deterministic)


def build_manifest(config: Config, split: str) -> Manifest:
    """Returns the videos of a split.

    Raises:
        DataError: the root or its lists are missing or wrong.
        ConfigError: `model.num_classes` is not the number of classes there.
    """
    videos = Path(config.data.videos) if config.data.videos else None
    try:
        manifest = read_manifest(Path(config.data.root), split, videos=videos)
    except NoDataRootError as error:
        raise NoDataRootError(f"{error}, or say where it is: data.root=/path/to/root") from error
    wanted, found = config.model.num_classes, len(manifest.classes)
    if wanted not in ("auto", found):
        raise ConfigError(f"model.num_classes={wanted}, but {manifest.name} has {found} classes")
    return manifest


def require_a_batch(config: Config, num_videos: int, world: int) -> None:
    """Checks that no step of `world` processes holds a video twice by necessity.

    Raises:
        ConfigError: a step takes more videos than the training list has.
    """
    optim = config.optim
    clips = optim.clips_per_gpu * optim.accumulate * world
    videos = clips // config.data.clips_per_decode
    if videos > num_videos:
        raise ConfigError(
            f"optim.clips_per_gpu={optim.clips_per_gpu}: a step of {world} process(es) takes "
            f"{clips} clips of {videos} videos, but the training list has only {num_videos} "
            "videos; lower optim.clips_per_gpu or optim.accumulate, or add videos"
        )


def build_norm(config: Config) -> NormFactory:
    """Returns channels -> normalization layer."""
    norm = config.model.norm
    return norm_factory(
        norm.kind,
        num_groups=norm.num_groups,
        channels_per_group=norm.channels_per_group,
        eps=norm.eps,
        momentum=norm.momentum,
        impl=_impl(config),
        sub_batch=norm.sub_batch,
        brn_r_max=norm.brn_r_max,
        brn_d_max=norm.brn_d_max,
        brn_warmup_steps=norm.brn_warmup_steps,
    )


def _impl(config: Config) -> Impl:
    """Returns the `impl` of `videogn.ops`; "auto" is ATen until the kernels have run on a GPU."""
    impl = config.model.norm.impl
    return "aten" if impl == "auto" else impl


def norm_impl(config: Config, device: torch.device) -> str:
    """Returns what computes the normalization on `device`: "aten" or "triton".

    Raises:
        ConfigError: `model.norm.impl=triton` cannot run there.
    """
    amp = config.optim.amp
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(amp, torch.float32)
    try:
        return choose(_impl(config), torch.empty(1, 1, 1, 1, 1, device=device, dtype=dtype))
    except ValueError as error:
        raise ConfigError(f"model.norm.impl={config.model.norm.impl}: {error}") from error


def build_model(config: Config, num_classes: int) -> I3DResNet:
    """Returns the network with random weights from the run's seed, on the CPU.

    Raises:
        ConfigError: its parts do not fit together.
    """
    torch.manual_seed(config.seed)
    try:
        return I3DResNet(
            ARCHS[config.model.arch],
            build_norm(config),
            num_classes=num_classes,
            num_frames=config.data.num_frames,
            crop_size=config.data.crop_size,
            width=config.model.width,
            dropout=config.model.dropout,
            stem_pool_padding=config.model.stem_pool_padding,
            zero_init_residual=config.model.norm.zero_init_residual,
            recompute=config.model.recompute,
        )
    except ValueError as error:
        raise ConfigError(f"model: {error}") from error


def resolve(config: Config, num_classes: int, mean: Any = None, std: Any = None) -> Config:
    """Returns the config with every `auto` of the model's input and output made a value.

    Args:
        config: as written.
        num_classes: of the data.
        mean: RGB of the initial weights' input, None without any.
        std: the same.
    """

    def chosen(written: Any, of_weights: Any, default: list[float]) -> list[float]:
        return [float(x) for x in (written if written != "auto" else of_weights or default)]

    return replace(
        config,
        model=replace(config.model, num_classes=num_classes),
        data=replace(
            config.data,
            mean=chosen(config.data.mean, mean, DEFAULT_MEAN),
            std=chosen(config.data.std, std, DEFAULT_STD),
        ),
    )


def fingerprint(config: Config, model: I3DResNet) -> dict[str, Any]:
    """Returns what a checkpoint's weights mean nothing without: the network and its input."""
    return model.fingerprint() | {
        "arch": config.model.arch,
        "num_frames": config.data.num_frames,
        "frame_stride": config.data.frame_stride,
        "mean": list(config.data.mean),
        "std": list(config.data.std),
    }


def build_to_input(config: Config, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Returns uint8 clips (N, T, S, S, 3), anywhere -> the network's input on `device`."""
    mean, std = config.data.mean, config.data.std
    assert not isinstance(mean, str)  # `resolve` has put numbers for "auto"
    assert not isinstance(std, str)

    def to_input(clips: Tensor) -> Tensor:
        return to_network(clips.to(device, non_blocking=True), mean, std)

    return to_input


def build_state(config: Config, model: I3DResNet, device: torch.device) -> TrainState:
    """Returns the network on its device with its optimizer."""
    model.to(device)
    if device.type == "cuda":
        model.to(memory_format=torch.channels_last_3d)
    optim = config.optim
    groups = parameter_groups(
        model,
        weight_decay=optim.weight_decay,
        weight_decay_norm=optim.weight_decay_norm,
        norms=norm_layers(model),
    )
    optimizer = torch.optim.SGD(
        groups,
        lr=optim.base_lr,
        momentum=optim.momentum,
        nesterov=optim.nesterov,
        # One pass over memory: on a CPU 12 ms for I3D-R50 instead of 47, and the same bits. But an
        # overflow of fp16 in the first step leaves it momentum that nothing was written to.
        fused=optim.amp != "fp16" and device.type in ("cpu", "cuda"),
    )
    scaler = torch.amp.GradScaler(device.type, enabled=optim.amp == "fp16")
    ema = Ema(model, optim.ema) if optim.ema else None
    return TrainState(model, optimizer, scaler, ema=ema)


def build_schedule(config: Config, num_samples: int, world: int) -> Schedule:
    """Returns the rate and length of the training on `world` processes."""
    optim = config.optim
    return Schedule(
        num_samples=num_samples,
        global_batch=optim.clips_per_gpu * optim.accumulate * world,
        epochs=optim.epochs,
        base_lr=optim.base_lr,
        base_batch=optim.base_batch,
        milestones=tuple(optim.milestones),
        gamma=optim.gamma,
        warmup_epochs=optim.warmup_epochs,
    )


def build_train_options(config: Config) -> TrainOptions:
    """Returns the rest of the recipe."""
    return TrainOptions(
        accumulate=config.optim.accumulate,
        amp=config.optim.amp,
        max_steps=config.optim.max_steps,
        seed=config.seed,
        monitor_every_epochs=config.eval.monitor_every_epochs,
        log_every_steps=config.log_every_steps,
        save_every_steps=config.save_every_steps,
        clip_grad=config.optim.clip_grad,
        compile=config.model.compile,
        percentiles_every_epochs=config.eval.percentiles_every_epochs,
    )


def build_train_loader(
    config: Config, manifest: Manifest, ranks: Ranks, *, start: int = 0, stop: int | None = None
) -> Iterator[Any]:
    """Returns this rank's micro-batches from `start` to before `stop`, endless without.

    Args:
        config: of the run.
        manifest: the training videos.
        ranks: this process among the others.
        start: micro-batches of each rank already taken.
        stop: see above.
    """
    stream = Stream(
        len(manifest),
        seed=config.seed,
        batch_size=config.optim.clips_per_gpu,
        rank=ranks.rank,
        world=ranks.world,
        clips_per_decode=config.data.clips_per_decode,
        start=start,
        stop=stop,
    )
    return clip_loader(
        _train_clips(config, manifest, replace_bad=True),
        stream,
        num_workers=_workers(config),
        pin=torch.cuda.is_available(),
        timeout=config.data.timeout,
    )


def build_monitor_loader(
    config: Config, manifest: Manifest, ranks: Ranks, epoch: int
) -> Iterator[Any]:
    """Returns this rank's share of one clip from each video, augmented as `epoch` says."""
    rows = range(ranks.rank, len(manifest), ranks.world)
    return clip_loader(
        _train_clips(config, manifest, replace_bad=False),
        keyed_batches(rows, config.optim.clips_per_gpu, epoch),
        num_workers=min(_workers(config), len(rows)),
        pin=torch.cuda.is_available(),
        timeout=config.data.timeout,
    )


def build_sample_loader(
    config: Config, manifest: Manifest, count: int, *, batch_size: int
) -> Iterator[Any]:
    """Returns a clip of each of `count` videos, or of all: the same clips every time.

    Which videos, and how each is augmented, the seed of the run says.
    """
    rows = epoch_order(len(manifest), config.seed, 0)[:count].tolist()
    batches = keyed_batches(rows, batch_size, 0)
    return clip_loader(
        _train_clips(config, manifest, replace_bad=False),
        batches,
        num_workers=min(_workers(config), len(batches)),
        pin=torch.cuda.is_available(),
        timeout=config.data.timeout,
    )


def build_view_spec(config: Config) -> ViewSpec:
    """Returns the test protocol."""
    return ViewSpec(
        num_frames=config.data.num_frames,
        frame_stride=config.data.frame_stride,
        num_clips=config.eval.num_clips,
        clip_rule=config.eval.clip_rule,
        crops=config.eval.crops,
        short_side=config.eval.short_side,
        crop_size=config.data.crop_size,
    )


def build_video_loader(config: Config, manifest: Manifest, rows: Sequence[int]) -> Iterator[Any]:
    """Returns whole videos with the views of the test protocol: this rank's share."""
    open_video = build_opener(config, manifest)
    dataset = EvalVideos(manifest, build_view_spec(config), open_video=open_video)
    return video_loader(
        dataset,
        rows,
        num_workers=min(_workers(config), len(rows)),
        pin=torch.cuda.is_available(),
        timeout=config.data.timeout,
    )


def build_mirror(
    config: Config,
    folder: Path,
    *,
    facts: Mapping[str, Any],
    job_type: str,
    wandb_id: str | None = None,
) -> WandbMirror:
    """Returns the W&B run of a run folder; by default it is shown with others of its experiment.

    Args:
        config: resolved.
        folder: of the run.
        facts: versions, hardware, code and data, stored beside the config as `env`.
        job_type: "train" or "test".
        wandb_id: of the W&B run to go on with.
    """
    w, norm = config.wandb, config.model.norm.kind
    batch = f"{config.optim.clips_per_gpu} clips per GPU"
    return WandbMirror(
        folder,
        mode=w.mode,
        project=w.project,
        config=to_dict(config) | {"env": facts},
        wandb_id=wandb_id,
        group=w.group or config.name,
        tags=[*w.tags, norm, f"{config.data.num_frames} frames", batch],
        job_type=job_type,
        limits=Limits(finish=600.0) if w.artifacts else Limits(),  # 225 MB each
    )


def cores() -> int:
    """Returns the cores that this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)  # Linux only
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def _workers(config: Config) -> int:
    """Returns how many loader processes to start: no more than there are cores."""
    return min(config.data.num_workers, cores())


def _train_clips(config: Config, manifest: Manifest, *, replace_bad: bool) -> TrainClips:
    data = config.data
    spec = ClipSpec(
        data.num_frames, data.frame_stride, tuple(data.short_side), data.crop_size, data.flip
    )
    return TrainClips(
        manifest,
        spec,
        open_video=build_opener(config, manifest),
        seed=config.seed,
        replace=replace_bad,
    )


def build_opener(config: Config, manifest: Manifest) -> OpenVideo:
    """Returns what opens a path of the manifest."""
    decoder = config.data.decoder
    import_decoder(decoder)  # a worker's error would come with a traceback for a message
    return partial(
        _open_under, videos=manifest.videos, decoder=decoder, timeout=config.data.timeout
    )


def _open_under(
    path: str, *, videos: Path, decoder: str, timeout: float, index: FrameIndex | None = None
) -> VideoReader:
    # Not a Path, which would write the name of an archive's member in another way.
    place = f"{videos}/{path}"
    return open_video(place, root=videos, decoder=decoder, index=index, timeout=timeout)
