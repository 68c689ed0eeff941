"""Every key of the configuration, with its type, default, range and what it means.

This is the one place where a key is described: checks, the JSON schema, `run.py config --explain`
and the completion of a shell are all made from it.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field
from typing import Any, Literal

REQUIRED = MISSING  # the default of a key that every experiment must state


def key(
    default: Any,
    doc: str,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
    scientific: bool = True,
) -> Any:
    """Returns the dataclass field of one key.

    Args:
        default: its value where nothing states it; `REQUIRED` when something must.
        doc: one line on what it means, with units.
        least: its number, or each of its numbers, is at least this.
        above: the same, and not equal.
        most: at most this.
        below: the same, and not equal.
        scientific: whether another value makes another experiment. A rerun that differs only in
            other keys goes on with the run.
    """
    bounds = {"least": least, "above": above, "most": most, "below": below}
    metadata = {"doc": doc, "scientific": scientific, "bounds": bounds}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(kw_only=True)
class NormConfig:
    """Which positions share a mean and a variance."""

    kind: Literal["gn", "bn", "ln", "in", "brn", "frozen_bn", "sync_bn"] = key(
        "gn", "gn: by groups of channels, bn: over the batch; brn, frozen_bn, sync_bn: kinds of bn"
    )
    num_groups: int = key(32, "gn: groups of channels, the same number in every layer", least=1)
    channels_per_group: int | None = key(
        None, "gn: channels in a group, instead of num_groups", least=1
    )
    eps: float = key(1e-5, "added to the variance", above=0)
    momentum: float = key(
        0.1, "bn, brn: share of the newest batch in the running statistics", least=0, most=1
    )
    zero_init_residual: bool = key(
        True, "gamma of each block's last norm starts at zero; of no effect with model.init"
    )
    impl: Literal["auto", "aten", "triton"] = key(
        "auto", "what computes it: PyTorch's own kernels, or fused ones", scientific=False
    )
    sub_batch: int | None = key(
        None, "bn: clips that share statistics; null: all clips of a process", least=1
    )
    brn_r_max: float = key(1.5, "brn: limit of the correction r", least=1)
    brn_d_max: float = key(0.5, "brn: limit of the correction d", least=0)
    brn_warmup_steps: int = key(5000, "brn: steps over which both limits rise", least=0)


@dataclass(kw_only=True)
class ModelConfig:
    """The network and the weights it starts from."""

    arch: Literal[
        "i3d_r50",
        "i3d_r101",
        "c2d_r50_nonlocal",
        "i3d_r50_8x8",
        "c2d_r50",
        "slow_r50",
        "i3d_r50_mmaction",
        "i3d_r50_stride1x1",
        "i3d_r14",
    ] = key("i3d_r50", "the network: blocks, strides, pools and kernels over time")
    width: int = key(64, "channels of the first layer", least=1)
    num_classes: int | Literal["auto"] = key(
        "auto", "classes to tell apart; auto: as many as classes.txt lists", least=1
    )
    dropout: float = key(0.5, "share of features dropped before the classifier", least=0, most=1)
    stem_pool_padding: int = key(
        0, "padding of the first pool: 0 as in Non-local's code, 1 as elsewhere", least=0, most=1
    )
    init: str | None = key(None, "weights to start from: a file or a known name; null: random")
    inflation: Literal["mean", "center"] = key(
        "mean", "how a 2-D kernel fills a 3-D one: all T slices equal, or only the middle one"
    )
    init_allow_norm_mismatch: bool = key(
        False, "gamma and beta of another kind of norm may be taken from model.init"
    )
    norm: NormConfig = field(default_factory=NormConfig)
    recompute: Literal["none", "norm", "block"] = key(
        "none", "activations computed again in the backward pass, to save memory", scientific=False
    )
    compile: Literal["none", "compile", "graphs"] = key(
        "none", "torch.compile, or CUDA graphs, round the network", scientific=False
    )


@dataclass(kw_only=True)
class DataConfig:
    """The videos, and how a clip is cut from one."""

    root: str = key(REQUIRED, "folder with train.csv, val.csv and classes.txt")
    videos: str | None = key(None, "folder of the videos; null: as source.txt in the root says")
    num_frames: int = key(REQUIRED, "frames of a clip", least=1)
    frame_stride: int = key(REQUIRED, "every how many frames one is taken", least=1)
    short_side: list[int] = key(
        [256, 320], "pixels of the shorter side in training, uniform [from, to]", least=1
    )
    crop_size: int = key(224, "pixels of a side of the square that the network sees", least=1)
    flip: float = key(0.5, "probability of a mirrored clip in training", least=0, most=1)
    mean: Literal["auto"] | list[float] = key(
        "auto", "RGB subtracted, on [0, 1]; auto: as model.init was trained", least=0, most=1
    )
    std: Literal["auto"] | list[float] = key(
        "auto", "RGB divided by, on [0, 1]; auto: as model.init was trained", above=0, most=1
    )
    clips_per_decode: int = key(
        1, "clips cut from each decode of a video; divides optim.clips_per_gpu", least=1
    )
    decoder: Literal["pyav", "decord", "torchcodec"] = key(
        "pyav", "what decodes the videos", scientific=False
    )
    num_workers: int = key(
        8, "loader processes of each training process", least=0, scientific=False
    )
    timeout: float = key(
        120.0, "seconds for opening a video, and again for reading it", above=0, scientific=False
    )
    max_bad_fraction: float = key(
        0.01, "the run stops when more of the videos cannot be read", least=0, most=1
    )


@dataclass(kw_only=True)
class OptimConfig:
    """SGD and its schedule."""

    clips_per_gpu: int = key(REQUIRED, "clips of a batch of one process: what BN sees", least=1)
    accumulate: int = key(1, "batches whose gradients make one step", least=1)
    base_lr: float = key(REQUIRED, "rate for base_batch clips; scaled to the real batch", above=0)
    base_batch: int = key(64, "clips that base_lr is meant for", least=1)
    epochs: float = key(REQUIRED, "length of the training; fractions are allowed", above=0)
    milestones: list[float] = key([], "epochs at which the rate is multiplied by gamma", above=0)
    gamma: float = key(0.1, "see milestones", above=0)
    warmup_epochs: float = key(0.0, "the rate rises from zero over as many epochs", least=0)
    momentum: float = key(0.9, "of SGD", least=0, most=1)
    nesterov: bool = key(True, "Nesterov's form of momentum")
    weight_decay: float = key(1e-4, "of all parameters but the norms'", least=0)
    weight_decay_norm: float = key(0.0, "of gamma and beta of the norms", least=0)
    amp: Literal["none", "bf16", "fp16"] = key("none", "mixed precision; none: float32")
    clip_grad: float | None = key(None, "largest norm of the gradient; null: not clipped", above=0)
    ema: float | None = key(
        None, "decay of an average of the weights, as 0.9999; null: none", above=0, below=1
    )
    max_steps: int | None = key(None, "stop early, for trials", least=1)


@dataclass(kw_only=True)
class EvalConfig:
    """The test protocol, and the monitoring while training."""

    num_clips: int = key(10, "clips of a video whose probabilities are averaged", least=1)
    clip_rule: Literal["nonlocal", "slowfast", "mmaction"] = key(
        "nonlocal", "whose rule places the clips in a video"
    )
    crops: Literal["full", "center", "three"] = key(
        "full", "what is seen of each clip: the whole frame, or squares of it"
    )
    short_side: int = key(256, "pixels of the shorter side in the test", least=1)
    views_per_forward: int = key(
        10, "views that go through the network at once", least=1, scientific=False
    )
    monitor_every_epochs: float = key(
        1.0, "how often the 1-clip error of Fig. 7 is measured", above=0, scientific=False
    )
    precise_bn_batches: int = key(
        200, "bn: batches that its statistics are measured on; 0: the running ones", least=0
    )
    percentiles_every_epochs: float = key(
        0.0, "how often the activations of Fig. 6 are measured; 0: never", least=0, scientific=False
    )


@dataclass(kw_only=True)
class WandbConfig:
    """The W&B mirror of the run's own records."""

    mode: Literal["auto", "online", "offline", "disabled"] = key(
        "auto", "auto: online when logged in, else offline", scientific=False
    )
    project: str = key("videogn", "W&B's project", scientific=False)
    group: str | None = key(None, "W&B's group of runs; null: none", scientific=False)
    tags: list[str] = key([], "W&B's tags", scientific=False)
    predictions: int = key(64, "test videos in the table of predictions", least=0, scientific=False)
    artifacts: bool = key(False, "upload the checkpoints", scientific=False)


@dataclass(kw_only=True)
class Config:
    """One experiment, complete."""

    name: str = key(REQUIRED, "of the experiment: its folder under runs/")
    seed: int = key(0, "of weights, order, augmentation and dropout", least=0, below=2**63)
    deterministic: bool = key(False, "bitwise repeatable on CUDA too, slower")
    device: Literal["auto", "cuda", "mps", "cpu"] = key(
        "auto", "where it runs; auto: the best there is", scientific=False
    )
    run_dir: str | None = key(None, "where it writes; null: runs/<name>/<time>", scientific=False)
    resume: str = key("auto", "auto | never | path of a checkpoint", scientific=False)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig
    optim: OptimConfig
    eval: EvalConfig = field(default_factory=EvalConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)
    log_every_steps: int = key(20, "steps between two lines of the log", least=1, scientific=False)
    save_every_steps: int = key(2000, "steps between two checkpoints", least=1, scientific=False)
    keep_checkpoints: int = key(3, "checkpoints kept, the newest", least=1, scientific=False)
    rank_timeout: float = key(
        600.0, "seconds that a process waits for the others", above=0, scientific=False
    )
    slurm_requeue: bool = key(
        False, "on SIGUSR1 or SIGTERM, save and ask SLURM to start the job again", scientific=False
    )
