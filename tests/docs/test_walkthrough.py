"""The documents followed by a reader: their commands run one after the other, in one folder.

The videos and networks are tiny: each command that trains gets the overrides that make it so, but
for the keys that it states itself. What needs more (GPUs, a cluster, Kinetics, published files) is
parsed by test_commands.py and left out here, by the words that it begins with.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_prep.__main__ import main as data_prep
from tests.checkpoints import write_checkpoint
from tests.docs.pages import commands
from tests.videos import write_numbered
from videogn.cli import main

pytestmark = pytest.mark.slow

TINY = {
    "device": "cpu",
    "log_every_steps": "1",
    "model.arch": "i3d_r14",
    "model.width": "8",
    "model.init": "null",
    "model.stem_pool_padding": "1",
    "model.norm.num_groups": "4",
    "data.num_frames": "8",
    "data.frame_stride": "1",
    "data.short_side": "[32,36]",
    "data.crop_size": "32",
    "data.num_workers": "0",
    "optim.clips_per_gpu": "2",
    "optim.max_steps": "2",
    "eval.num_clips": "2",
    "eval.short_side": "32",
    "eval.precise_bn_batches": "1",
}
PLACES = {"/data/k400": "data/mine", "~/videos": "videos"}
TRAIN = "python run.py --cfg"
CLASSES = ("again", "bird", "night", "walk")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the pages take for granted: videos in class folders, and files called as there."""
    for length, name in enumerate(CLASSES, 20):
        for video in ("clip", "other", "third", "fourth"):
            (tmp_path / "videos" / name).mkdir(parents=True, exist_ok=True)
            write_numbered(tmp_path / "videos" / name / f"{video}.mkv", length)
    for video in ("clip.mp4", "long.mp4", "clips/a.mp4", "clips/b.mp4", "more/inner/c.mkv"):
        (tmp_path / video).parent.mkdir(parents=True, exist_ok=True)
        write_numbered(tmp_path / video, 24)
    (tmp_path / "lists").mkdir()
    for split, video in (("train", "clip"), ("val", "other")):
        rows = [f"{name}/{video}.mkv {label}\n" for label, name in enumerate(CLASSES)]
        (tmp_path / "lists" / f"{split}.csv").write_text("".join(rows))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def follow(page: str, *left_out: str) -> int:
    """Runs the commands of a page, but those that begin with `left_out`; returns how many ran."""
    lines = [words for words in commands(page) if not " ".join(words).startswith(left_out)]
    for words in lines:
        assert _run(words) == 0, words
    return len(lines)


def _run(words: list[str]) -> int:
    here = [_here(word) for word in words]
    if here[:3] == ["python", "-m", "data_prep"]:
        return data_prep(here[3:])
    assert here[:2] == ["python", "run.py"]
    return main(_tiny([each for word in here[2:] for each in _expanded(word)]))


def _here(word: str) -> str:
    for place, ours in PLACES.items():
        word = word.replace(place, ours)
    return word


def _expanded(word: str) -> list[str]:
    return sorted(str(path) for path in Path().glob(word)) if "*" in word else [word]


def _tiny(words: list[str]) -> list[str]:
    if "--cfg" not in words or words[0] == "config":
        return words
    own = {word.partition("=")[0] for word in words}
    return words + [f"{key}={value}" for key, value in TINY.items() if key not in own]


def test_own_data_in_ten_minutes(folder: Path) -> None:
    write_checkpoint(folder / "best.pt", classes=CLASSES)  # "a checkpoint", in its last lines
    needs_a_download = "python run.py --cfg finetune.yaml data.root=data/mine model.init"
    assert follow("docs/own-data.md", needs_a_download) >= 12
    (test,) = folder.glob("runs/small/*/test.json")
    assert json.loads(test.read_text())["num_videos"] == 16
    assert (folder / "runs" / "report.html").is_file()
    assert (folder / "night.mp4").stat().st_size > 0
    assert len((folder / "answers.csv").read_text().splitlines()) == 1 + 16 * 4


def test_protocols(folder: Path) -> None:
    assert data_prep(["index", "videos", "--out", "data/mine", "--val-same"]) == 0
    root = f"data.root={folder / 'data' / 'mine'}"
    write_checkpoint(folder / "last.pt", root, classes=CLASSES)
    assert follow("docs/protocols.md", "python run.py compare") == 4
    tests = [json.loads(path.read_text()) for path in folder.glob("test_*/test.json")]
    assert len({test["protocol"] for test in tests}) == 4
    assert {test["num_decoded"] for test in tests} == {16}


def test_lists_of_others(folder: Path) -> None:
    checkpoints = ("python run.py weights", "python run.py convert", "python run.py predict")
    assert follow("docs/coming-from.md", *checkpoints, "python run.py test", TRAIN) == 3
    assert (folder / "lists" / "pyslowfast" / "train.csv").is_file()
    assert list((folder / "lists" / "mmaction2").iterdir())


def test_the_commands_of_the_norms(folder: Path) -> None:
    assert data_prep(["index", "videos", "--out", "data/mine", "--val-same"]) == 0
    measured = ("python run.py fit", "python run.py bench", "python run.py study")
    write_checkpoint(folder / "last.pt", f"data.root={folder / 'data' / 'mine'}", classes=CLASSES)
    assert follow("docs/choosing-norm.md", *measured) == 3


def test_table_8_in_miniature(folder: Path) -> None:
    assert data_prep(["index", "videos", "--out", "data/mine", "--val-same"]) == 0
    machine = ("python run.py doctor", "python run.py bench", "python run.py fit")
    not_here = ("python -m data_prep", "torchrun", "sbatch", "wandb")
    paths = ("python run.py compare", "python run.py --cfg i3d_gn_64f.yaml model.init")
    assert follow("docs/reproduce-table8.md", *machine, *not_here, *paths) == 5
    assert "| small" not in (folder / "runs" / "table8.md").read_text()
    assert len(list(folder.glob("runs/i3d_gn_64f/*/test.json"))) == 2


def test_the_readme(folder: Path) -> None:
    assert data_prep(["index", "videos", "--out", "data/mine", "--val-same"]) == 0
    root = f"data.root={folder / 'data' / 'mine'}"
    for name in ("best.pt", "last.pt"):
        write_checkpoint(folder / name, root, classes=CLASSES)
    set_up = ("python3", ".", "pip", "pytest", "python run.py demo", "torchrun")
    files = ("python run.py weights", "python run.py convert I3D", "python run.py --cfg i3d_bn_32f")
    layouts = ("python run.py convert best.pt --to best.pyth", "python run.py export")
    machine = ("python run.py predict --ckpt best.pt --camera", "python run.py fit")
    runs = ("python run.py compare", "python run.py config --diff", "python run.py train")
    assert follow("README.md", *set_up, *files, *layouts, *machine, *runs) >= 15
    assert len(list((folder / "labelled").iterdir())) == 2
    assert (folder / "best.safetensors").is_file()
