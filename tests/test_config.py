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

from tests.faults.configs import ConfigFault, config_faults, problem_of
from videogn import build, cli, config
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


FAULTS = config_faults()


@pytest.mark.parametrize("fault", FAULTS, ids=[f"{f.group[:2]} {f.name[:40]}" for f in FAULTS])
def test_a_wrong_configuration_is_refused_in_one_line_that_names_it(
    fault: ConfigFault, tmp_path: Path
) -> None:
    assert problem_of(fault, tmp_path / "fault") == ""


def test_a_missing_file_is_refused_with_the_nearest_or_all_names_there_are() -> None:
    assert "'i3d_gn_65f.yaml'" in (message := refusal(source="i3d_gn_65f.yaml"))
    assert message.endswith("did you mean i3d_gn_64f.yaml?")
    assert all(name in refusal(source="zzz.yaml") for name in SHIPPED)


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


def test_without_data_the_command_that_prepares_them_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["--cfg", "i3d_gn_64f.yaml"]) == 3
    (line,) = "".join(capfd.readouterr()).splitlines()
    assert line.startswith("error: data/kinetics400: no such data root")
    assert line.endswith(", or say where it is: data.root=/path/to/root")
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
        rows = [f"{split}_{number}.mp4,walk\n" for number in range(4)]  # a batch
        (root / f"{split}.csv").write_text("path,label\n" + "".join(rows))
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


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("i3d_gn_64.yaml", "did you mean i3d_gn_64f.yaml?"),
        ("I3D_GN_64", "did you mean i3d_gn_64f.yaml?"),
        ("study/cup.yaml", "did you mean study/cpu.yaml?"),
        ("mien.yaml", "did you mean mine.yaml?"),
        ("xyzzy.yaml", "one of configs/: demo.yaml, "),
    ],
)
def test_a_misspelt_name_of_a_config_is_answered_with_the_nearest(
    name: str, near: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").touch()
    with pytest.raises(ConfigError) as caught:
        load_config(name)
    assert near in str(caught.value)


@pytest.mark.parametrize(
    ("override", "near"),
    [("model.norm.kind=frozenbn", "frozen_bn"), ("model.arch=i3d_50", "i3d_r50")],
)
def test_a_misspelt_choice_is_answered_with_the_nearest(override: str, near: str) -> None:
    with pytest.raises(ConfigError, match=rf"wanted one of .*; did you mean {near}\?$"):
        load_config("demo", [override])


def test_a_folder_is_no_config(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is a folder; give a file, as .*config\.yaml of a run"):
        load_config(tmp_path)
