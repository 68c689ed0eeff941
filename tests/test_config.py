"""Shipped experiments say everything, and every mistake is one sentence that names it."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch
import yaml

from videogn import build, config
from videogn.config import CONFIG_DIR, Config, config_from, flatten, load_config, to_dict
from videogn.data.decode import DECODERS
from videogn.data.sampling import CLIP_RULES
from videogn.data.transforms import CROPS
from videogn.engine.train import AMP_DTYPES
from videogn.errors import ConfigError
from videogn.model.i3d import ARCHS
from videogn.model.inflate import INFLATIONS
from videogn.model.norm import NORM_KINDS

RUN = Path(__file__).parents[1] / "run.py"
SHIPPED = sorted(path.name for path in CONFIG_DIR.glob("*.yaml"))
# The six experiments of Table 8 and all that they differ in.
KEYS = ("model.norm.kind", "model.init", "data.num_frames", "data.frame_stride")
KEYS += ("optim.clips_per_gpu",)
TABLE8: dict[str, tuple[str, str, int, int, int]] = {
    "i3d_bn_32f": ("bn", "resnet50", 32, 2, 8),
    "i3d_gn_32f": ("gn", "R-50-GN.pkl", 32, 2, 8),
    "i3d_bn_32f_bs4": ("bn", "resnet50", 32, 2, 4),
    "i3d_gn_32f_bs4": ("gn", "R-50-GN.pkl", 32, 2, 4),
    "i3d_bn_64f": ("bn", "resnet50", 64, 1, 4),
    "i3d_gn_64f": ("gn", "R-50-GN.pkl", 64, 1, 4),
}
KINETICS = 234_643  # training videos of video-nonlocal-net's copy
# Matter only when switched on; a key goes in here with the reason why it need not be stated.
# Without effect unless switched on, by themselves or by model.norm.kind=brn.
MAY_BE_LEFT_OUT = {
    "model.norm.sub_batch",
    "model.norm.brn_r_max",
    "model.norm.brn_d_max",
    "model.norm.brn_warmup_steps",
    "model.compile",
    "optim.clip_grad",
    "optim.ema",
    "eval.percentiles_every_epochs",
    "wandb.group",
    "wandb.tags",
    "wandb.predictions",
    "wandb.artifacts",
    "rank_timeout",
    "slurm_requeue",
}


def written(name: str) -> dict[str, Any]:
    """The keys and values that stand in a shipped file."""
    return flatten(yaml.safe_load((CONFIG_DIR / f"{name}.yaml").read_text(encoding="utf-8")))


def base_text() -> str:
    return (CONFIG_DIR / "i3d_gn_64f.yaml").read_text(encoding="utf-8")


def refusal(*overrides: str, source: str | Path = "i3d_gn_64f.yaml") -> str:
    """The message with which a configuration is refused, checked to be one line."""
    with pytest.raises(ConfigError) as caught:
        load_config(source, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_file_loads_and_builds_its_model(name: str) -> None:
    loaded = load_config(name)
    assert loaded.name == Path(name).stem
    with torch.device("meta"):
        model = build.build_model(loaded, num_classes=400)
    if loaded.model.arch == "i3d_r50" and loaded.model.width == 64:
        assert sum(p.numel() for p in model.parameters()) == 28_043_472  # as in every peer


@pytest.mark.parametrize("name", TABLE8)
def test_an_experiment_of_table_8_states_every_scientific_value(name: str) -> None:
    stated = written(name)
    for key in flatten(to_dict(load_config(name))):
        if key.split(".")[0] in ("model", "data", "optim", "eval"):
            assert key in stated or key in MAY_BE_LEFT_OUT, f"{name} leaves {key} to a default"


def test_the_six_files_differ_only_where_the_paper_says_so() -> None:
    for name, values in TABLE8.items():
        expected = written("i3d_gn_32f") | {"name": name} | dict(zip(KEYS, values, strict=True))
        assert written(name) == expected


@pytest.mark.parametrize("name", TABLE8)
def test_rates_and_steps_are_those_of_the_400k_recipe(name: str) -> None:
    schedule = build.build_schedule(load_config(name), KINETICS, world=8)
    clips = 8 * TABLE8[name][-1]
    factor = 64 // clips  # half the clips: half the rate, twice the steps
    assert schedule.global_batch == clips
    assert schedule.peak_lr == schedule.lr(0) == pytest.approx(0.01 / factor)
    assert abs(schedule.total_steps / factor - 400_000) < 100
    for before, at in enumerate((150_000, 300_000)):
        rate = 0.01 / factor * 0.1**before
        assert schedule.lr((at - 100) * factor) == pytest.approx(rate)
        assert schedule.lr((at + 100) * factor) == pytest.approx(rate / 10)


def test_1e_4_is_a_number_on_the_command_line_and_in_a_file(tmp_path: Path) -> None:
    """PyYAML alone reads it as a string."""
    assert load_config("i3d_gn_64f.yaml", ["optim.base_lr=1e-4"]).optim.base_lr == 0.0001
    path = tmp_path / "x.yaml"
    path.write_text(base_text().replace("base_lr: 0.01 ", "base_lr: 1e-4 "))
    assert load_config(path).optim.base_lr == 0.0001


@pytest.mark.parametrize(
    ("section", "key", "known"),
    [
        (config.NormConfig, "kind", NORM_KINDS),
        (config.ModelConfig, "arch", tuple(ARCHS)),
        (config.ModelConfig, "inflation", INFLATIONS),
        (config.DataConfig, "decoder", DECODERS),
        (config.OptimConfig, "amp", tuple(AMP_DTYPES)),
        (config.EvalConfig, "clip_rule", CLIP_RULES),
        (config.EvalConfig, "crops", CROPS),
    ],
)
def test_the_choices_of_a_key_are_those_of_its_part(
    section: type, key: str, known: tuple[str, ...]
) -> None:
    assert set(get_args(get_type_hints(section)[key])) == set(known)


REFUSED: dict[str, list[str]] = {
    # a misspelt key, or a right one in the wrong section
    "model.norm.knd=bn": ["model.norm.knd", "did you mean model.norm.kind?"],
    "optim.base_rl=1": ["optim.base_rl", "did you mean optim.base_lr?"],
    "modle.width=8": ["modle", "did you mean model"],
    "optim.crop_size=8": ["optim.crop_size", "did you mean data.crop_size?"],
    "sede=1": ["sede", "did you mean seed?"],
    "a.b.c=1": ["there is no key a"],
    # of the wrong type
    "data.num_frames=abc": ["data.num_frames", "abc"],
    "data.num_frames=1.5": ["data.num_frames", "1.5"],
    "optim.epochs=long": ["optim.epochs", "long"],
    "optim.epochs=null": ["optim.epochs", "None"],
    "seed=true": ["seed", "True"],
    "deterministic=maybe": ["deterministic", "maybe"],
    "data.short_side=256": ["data.short_side"],
    "data.short_side=[a,b]": ["data.short_side", "'a'"],
    "data.root=null": ["data.root"],
    "model.num_classes=1.5": ["model.num_classes", "1.5"],
    "model.num_classes=ten": ["model.num_classes=ten", "auto"],
    # an unknown choice
    "model.norm.kind=gbn": ["model.norm.kind", "'gbn'", "'gn', 'bn', 'ln', 'in'"],
    "model.arch=r50": ["model.arch", "'r50'", "i3d_r50"],
    "eval.crops=five": ["eval.crops", "'five'", "three"],
    "data.decoder=opencv": ["data.decoder", "'opencv'", "'pyav', 'decord', 'torchcodec'"],
    "device=gpu": ["device", "'gpu'", "cuda"],
    # numbers out of range
    "optim.base_lr=.nan": ["optim.base_lr=nan", "finite"],
    "optim.base_lr=.inf": ["optim.base_lr=inf", "finite"],
    "data.std=[.nan,1,1]": ["data.std", "nan"],
    "optim.milestones=[.nan]": ["optim.milestones", "nan"],
    "optim.base_lr=-1": ["optim.base_lr=-1", "above zero"],
    "data.num_frames=0": ["data.num_frames=0", "above zero"],
    "optim.weight_decay=-1e-4": ["optim.weight_decay=-0.0001", "zero or more"],
    "data.clips_per_decode=0": ["data.clips_per_decode=0", "above zero"],
    "data.timeout=0": ["data.timeout=0", "above zero"],
    "data.num_workers=-1": ["data.num_workers=-1", "zero or more"],
    "seed=-1": ["seed=-1"],
    "data.flip=2": ["data.flip=2", "from 0 to 1"],
    "optim.max_steps=0": ["optim.max_steps=0", ">= 1"],
    "model.stem_pool_padding=2": ["model.stem_pool_padding=2", "0 or 1"],
    "model.num_classes=0": ["model.num_classes=0", "above zero"],
    # values that do not fit together
    "model.norm.num_groups=24": ["model.norm.num_groups=24", "divisor of model.width=64"],
    "model.norm.channels_per_group=7": ["model.norm.channels_per_group=7", "model.width=64"],
    "model.norm.channels_per_group=0": ["model.norm.channels_per_group=0"],
    "data.crop_size=257": ["data.short_side=256", "data.crop_size=257"],
    "data.clips_per_decode=3": ["data.clips_per_decode=3", "divisor of optim.clips_per_gpu=4"],
    "eval.short_side=223": ["eval.short_side=223", "data.crop_size=224"],
    "data.short_side=[320,256]": ["data.short_side=[320, 256]", "from <= to"],
    "data.short_side=[256]": ["data.short_side=[256]", "two numbers"],
    "data.mean=[0.4,0.4]": ["data.mean=[0.4, 0.4]", "three numbers"],
    "data.mean=grey": ["data.mean=grey", "auto"],
    "data.std=[0,1,1]": ["data.std=[0, 1, 1]", "above zero"],
    "optim.milestones=[81.8,40.9]": ["optim.milestones=[81.8, 40.9]", "increasing"],
    # not overrides at all
    "model.norm.kind": ["'model.norm.kind'", "dotted.key=value"],
    "=3": ["'=3'", "dotted.key=value"],
    "--seed=3": ["'--seed=3'", "dotted.key=value"],
    "data.short_side=[256": ["'data.short_side=[256'", "cannot be read"],
    "data.root=${nowhere}": ["data.root", "nowhere"],
    # a section is not a value
    "model=3": ["model", "is a section of keys"],
    "data=[1]": ["data", "is a section of keys"],
    "model.norm=gn": ["model.norm=gn", "is a section of keys"],
    "optim=null": ["optim"],
}


@pytest.mark.parametrize("override", REFUSED)
def test_a_wrong_override_is_refused_in_one_line_that_names_it(override: str) -> None:
    message = refusal(override)
    for part in REFUSED[override]:
        assert part in message


def replaced(old: str, new: str) -> str:
    assert old in base_text()
    return base_text().replace(old, new)


WRONG_FILES: dict[str, tuple[str, list[str]]] = {
    "empty": ("", ["holds no configuration"]),
    "only a comment": ("# nothing\n", ["holds no configuration"]),
    "a list": ("- a\n- b\n", ["must be a mapping"]),
    "tabs": (replaced("  arch:", "\tarch:"), ["not valid yaml", "line 16"]),
    "a key twice": (base_text() + "seed: 3\n", ["duplicate key seed", "line "]),
    "a section twice": (base_text() + "model:\n  width: 3\n", ["duplicate key model"]),
    "a python tag": (
        replaced("seed: 0", 'seed: !!python/object/apply:os.system ["true"]'),
        ["not valid yaml", "python/object/apply:os.system", "line 9"],
    ),
    "a key missing": (replaced("name: i3d_gn_64f", ""), ["does not state name"]),
    "keys missing": (
        replaced("  num_frames: 64", "").replace("  epochs: 109.1", ""),
        ["does not state data.num_frames, optim.epochs"],
    ),
    "a misspelt key": (replaced("  crops:", "  crop:"), ["eval.crop", "mean eval.crops?"]),
    "a misspelt section": (replaced("optim:", "optm:"), ["optm", "did you mean optim?"]),
    "a section emptied": ("name: x\nmodel:\n", ["model"]),
    "a value for a section": ("name: x\nmodel: 3\n", ["model is a section of keys"]),
    "nul": ("a: \0", ["not valid yaml"]),
}


@pytest.mark.parametrize("mistake", WRONG_FILES)
def test_a_wrong_file_is_refused_in_one_line_that_names_it(mistake: str, tmp_path: Path) -> None:
    text, parts = WRONG_FILES[mistake]
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    message = refusal(source=path)
    for part in [str(path), *parts]:
        assert part in message


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xff\xfe\x00name")
    assert str(path) in refusal(source=path)


def test_a_missing_file_is_refused_with_the_names_there_are() -> None:
    message = refusal(source="i3d_gn_65f.yaml")
    assert all(word in message for word in ["'i3d_gn_65f.yaml'", *SHIPPED])


MEANINGLESS = {
    "optim.milestones=[-3,40.9]": "a negative milestone lowers the rate from the first step on",
    "optim.momentum=0": "nesterov without momentum: torch refuses it later, with a traceback",
    "name=../elsewhere": "the name is a folder under runs/ and must not lead out of it",
    "data.root=???": "OmegaConf's sign for a missing value is dropped in silence",
    "data.mean=[123.675,116.28,103.53]": "constants on the 0 to 255 scale are taken as they are",
    "seed=99999999999999999999999": "torch cannot be seeded with it: a traceback later",
}


@pytest.mark.parametrize("override", MEANINGLESS)
def test_a_value_that_cannot_be_meant_is_refused(override: str) -> None:
    assert override.partition("=")[0] in refusal(override)


def test_a_file_of_one_number_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("5\n")
    assert str(path) in refusal(source=path)


def test_a_value_for_an_inner_section_is_named_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: x\nmodel:\n  norm: gn\n")
    assert "model.norm" in refusal(source=path)


@pytest.mark.parametrize("folder", ["0123", "no", "1e3"])
def test_a_path_is_kept_as_it_was_typed(folder: str) -> None:
    assert load_config("i3d_gn_64f", [f"data.root={folder}"]).data.root == folder


def test_values_that_fit_together_may_come_in_any_order() -> None:
    overrides = ["data.crop_size=300", "data.short_side=[300,340]", "eval.short_side=310"]
    found = [load_config("i3d_gn_64f", order) for order in itertools.permutations(overrides)]
    assert all(one == found[0] for one in found)
    assert found[0].data.crop_size == 300


def test_the_last_of_two_overrides_wins() -> None:
    assert load_config("i3d_gn_64f", ["seed=1", "seed=2"]).seed == 2


def test_types_are_those_of_the_keys() -> None:
    loaded = load_config(
        "i3d_gn_64f",
        [
            "optim.epochs=3",
            "model.num_classes=7",
            "model.init=null",
            "data.root=a=b",
            "data.flip=1",
        ],
    )
    assert type(loaded.optim.epochs) is float
    assert loaded.model.num_classes == 7
    assert loaded.model.init is None
    assert loaded.data.root == "a=b"
    assert type(loaded.data.flip) is float
    assert type(loaded.data.short_side) is list  # plain, for checkpoints and json


@pytest.mark.parametrize("name", SHIPPED)
def test_a_config_survives_the_way_through_a_checkpoint_and_a_file(name: str) -> None:
    loaded = load_config(name, ["data.mean=[0.4,0.5,0.6]"])
    values = to_dict(loaded)
    assert config_from(values) == loaded
    assert config_from(yaml.safe_load(yaml.safe_dump(values))) == loaded
    assert isinstance(config_from(values, ["seed=5"]), Config)


def test_a_file_in_the_working_folder_comes_before_a_shipped_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "demo.yaml").write_text(base_text().replace("i3d_gn_64f", "mine"))
    assert load_config("demo.yaml").name == "demo"
    monkeypatch.chdir(tmp_path)
    assert load_config("demo.yaml").name == "mine"
    assert load_config("demo").name == "demo"


def run(folder: Path, *words: str, code: int) -> str:
    """What `run.py WORDS` writes to stderr in `folder`, its exit code checked."""
    done = subprocess.run(
        [sys.executable, str(RUN), *words], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    return done.stderr + done.stdout


def test_without_data_the_command_that_prepares_them_is_named(tmp_path: Path) -> None:
    said = run(tmp_path, "--cfg", "i3d_gn_64f.yaml", code=3)
    (line,) = said.splitlines()
    assert line.startswith("error: data/kinetics400: no such data root")
    assert "python -m data_prep index" in line
    assert list(tmp_path.iterdir()) == []  # nothing written


def test_a_wrong_key_is_told_before_missing_data(tmp_path: Path) -> None:
    (line,) = run(tmp_path, "--cfg", "i3d_gn_64f.yaml", "optim.lrr=1", code=2).splitlines()
    assert line.startswith("error: optim.lrr=1: there is no key optim.lrr")


@pytest.mark.slow
def test_missing_weights_are_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    root = tmp_path / "data"
    root.mkdir()
    (root / "classes.txt").write_text("walk\nrun\n")
    for split in ("train", "val"):
        (root / f"{split}.csv").write_text("path,label\na.mp4,walk\n")
    words = ["--cfg", "demo.yaml", f"data.root={root}", "model.init=nowhere.pth"]
    said = run(tmp_path, *words, code=2)
    assert said.splitlines()[-1].startswith("error: nowhere.pth: no such file")
    assert "Traceback" not in said
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "words", [[], ["trian"], ["--cfg"], ["seed=1"], ["--cfg", "demo.yaml", "--nope"]]
)
def test_a_wrong_command_line_ends_with_2_and_the_usage(words: list[str], tmp_path: Path) -> None:
    assert "usage: run.py" in run(tmp_path, *words, code=2)


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["--cfg", "x", "--help"]])
def test_help_ends_with_0(words: list[str], tmp_path: Path) -> None:
    assert "usage: run.py" in run(tmp_path, *words, code=0)


def test_options_may_stand_between_overrides(tmp_path: Path) -> None:
    """--debug is obeyed, and the override behind it is read."""
    said = run(tmp_path, "--cfg", "demo.yaml", "seed=1", "--debug", "optim.lrr=1", code=1)
    assert "Traceback" in said
    assert "there is no key optim.lrr" in said
