"""A whole run with W&B offline, in a process of its own: what W&B holds, and no secret anywhere."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.engine.wandb_files import StoredRun, read_file, read_run
from videogn.data.decode import open_video
from videogn.data.manifest import read_manifest
from videogn.data.synthetic import write_synthetic
from videogn.engine import checkpoint
from videogn.report.prediction_table import COLUMNS

pytestmark = pytest.mark.slow  # 8 s on two quiet cores, 15 s on busy ones

REPOSITORY = Path(__file__).parents[1]
OVERRIDES = [
    *(
        "name=thin",
        "data.root=data",
        "data.num_frames=4",
        "data.short_side=[32,32]",
        "data.crop_size=32",
    ),
    *("data.num_workers=0", "optim.clips_per_gpu=2", "optim.epochs=1", "eval.num_clips=1"),
    *("eval.short_side=32", "optim.milestones=[]", "optim.warmup_epochs=0", "model.width=8"),
    *(
        "log_every_steps=1",
        "save_every_steps=1",
        "keep_checkpoints=3",
        "wandb.mode=offline",
        "wandb.predictions=4",
    ),
    *("wandb.group=mine", "wandb.tags=[first]", "wandb.artifacts=true", "run_dir=runs/thin/run"),
]
# Each would be a real one: 40 characters for W&B's key, or it is refused before it can leak.
CANARIES = {
    "WANDB_API_KEY": "c0ffee" + "0" * 34,
    "AWS_SECRET_ACCESS_KEY": "canary-of-amazon",
    "HF_TOKEN": "hf_canaryofhuggingface",
    "GITHUB_TOKEN": "ghp_canaryofgithub",
    "SOME_PASSWORD": "canary-of-someone",
}


class Run(NamedTuple):
    """A finished run: where all was written, the home folder, and what W&B holds."""

    place: Path
    home: Path
    stored: StoredRun

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.place / "runs" / "thin" / "run"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    place = tmp_path_factory.mktemp("run")
    home = tmp_path_factory.mktemp("home-of-canary")
    write_synthetic(place / "data", train=4, val=6, num_frames=8, size=32)
    kept = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")}
    train(place, kept | CANARIES | {"HOME": str(home)})
    return Run(place, home, read_run(place / "runs" / "thin" / "run"))


def train(place: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "run.py"), "--cfg", "demo.yaml", *OVERRIDES],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "W&B: offline; upload later with: wandb sync runs/thin/run/wandb/off" in done.stdout
    assert "gave up" not in done.stdout


def test_no_secret_is_in_any_file(run: Run) -> None:
    files = [path for path in run.place.rglob("*") if path.is_file()]
    kinds = {path.suffix for path in files}
    assert {".pt", ".wandb", ".jsonl", ".yaml", ".json", ".txt", ".log", ".csv"} <= kinds
    secrets = [value.encode() for value in (*CANARIES.values(), run.home.name)]
    leaks = [path for path in files for secret in secrets if secret in path.read_bytes()]
    assert leaks == []
    assert list(run.home.rglob("*")) == []  # not even a cache


def test_nothing_personal_is_in_what_wandb_would_upload(run: Run) -> None:
    """Not the machine, nor the folders of the code, the data and the interpreter."""
    (stored,) = run.folder.glob("wandb/offline-run-*")
    uploads = [path.read_bytes() for path in (stored / "files").rglob("*") if path.is_file()]
    (transactions,) = stored.glob("*.wandb")
    # Where the files of an artifact wait for their upload is for this machine only.
    waiting = str(run.folder / "wandb" / "data" / "artifacts" / "staging")
    uploads.append(transactions.read_bytes().replace(waiting.encode(), b""))
    words = [platform.node(), str(run.place), str(REPOSITORY), sys.prefix]
    words = [word.encode() for word in words if len(word) > 3]
    assert [word for data in uploads for word in words if word in data] == []
    assert run.stored.run["host"] == ""


def test_wandb_knows_what_was_run(run: Run) -> None:
    wandb_run = run.stored.run
    assert (wandb_run["project"], wandb_run["group"]) == ("videogn", "mine")
    assert wandb_run["job_type"] == "train"
    assert wandb_run["tags"] == ["2 clips per GPU", "4 frames", "first", "gn"]
    config = wandb_run["config"]
    assert config["model"]["num_classes"] == 8  # resolved
    env = json.loads((run.folder / "env.json").read_text(encoding="utf-8"))
    assert config["env"] == env
    assert {"git", "gpus", "cpus", "packages", "python", "world_size"} <= env.keys()
    val = read_manifest(run.place / "data", "val")
    assert env["data"]["val"] == {"videos": 6, "sha256": val.content_hash}
    last = checkpoint.load(run.folder / "checkpoints" / "last.pt")
    assert last["wandb_id"] == wandb_run["id"]  # so that a resumed run goes on with its curves


def test_the_curves_are_those_of_the_record(run: Run) -> None:
    text = (run.folder / "metrics.jsonl").read_text(encoding="utf-8")
    records = [json.loads(line) for line in text.splitlines()]
    curves = [point for point in run.stored.history if "step" in point]
    assert [point["step"] for point in curves] == [record["step"] for record in records]
    for point, record in zip(curves, records, strict=True):
        for key, value in record.items():
            shown = key if "/" in key or key in ("step", "epoch") else f"{record['split']}/{key}"
            assert key == "split" or value is None or point[shown] == value
    assert "train/loss" in curves[0]
    axes = run.stored.axes
    assert (axes["train/*"], axes["val/*"]) == ("step", "epoch")


def test_the_summary_has_the_final_numbers(run: Run) -> None:
    report = json.loads((run.folder / "test.json").read_text(encoding="utf-8"))
    summary = run.stored.summary
    for key in ("top1", "top5", "num_videos", "protocol"):
        assert summary[f"test/{key}"] == report[key]
    assert summary["test/failed"] == 0
    model = checkpoint.load(run.folder / "checkpoints" / "last.pt")["model"]
    assert summary["parameters"] == sum(weight.numel() for weight in model.values())
    best = checkpoint.load(run.folder / "checkpoints" / "best.pt")["metrics"]["best_error"]
    assert summary["val/best_error_1clip_aug"] == best
    assert run.stored.exit_code == 0


def test_predictions_can_be_played(run: Run) -> None:
    assert run.stored.history[-1]["test/predictions/nrows"] == 4
    (stored,) = [artifact for artifact in run.stored.artifacts if artifact.kind == "run_table"]
    path = stored.files["test/predictions.table.json"]
    table = json.loads(path.read_text(encoding="utf-8"))
    assert len(table["data"]) == 4
    assert table["columns"] == list(COLUMNS)
    for video, clip, *_, correct in table["data"]:
        assert video.startswith("videos/val_")
        assert correct in (True, False)
        with open_video(stored.files[clip["path"]]) as reader:
            assert reader.num_frames == 3  # every third of 8: 30 a second become 10
    assert not list(run.folder.glob("wandb/clips/*"))  # W&B has copies


def test_checkpoints_are_kept_as_asked(run: Run) -> None:
    name = f"model-{run.stored.run['id']}"
    kept = [artifact for artifact in run.stored.artifacts if artifact.kind == "model"]
    assert [artifact.name for artifact in kept] == [name, name]
    assert [artifact.aliases for artifact in kept] == [{"best", "latest"}, {"last", "latest"}]
    for artifact, file in zip(kept, ("best.pt", "last.pt"), strict=True):
        waiting = artifact.files[file].read_bytes()
        assert waiting == (run.folder / "checkpoints" / file).read_bytes()


def test_a_resumed_run_goes_on_with_its_curves(run: Run, tmp_path: Path) -> None:
    place = tmp_path / "place"
    shutil.copytree(run.place, place)
    folder = place / "runs" / "thin" / "run"
    (before,) = folder.glob("wandb/offline-run-*")
    (folder / "test.json").unlink()
    for name in ("step_000000002", "last", "best"):  # as if it had been killed in its second step
        (folder / "checkpoints" / f"{name}.pt").unlink()
    train(place, dict(os.environ) | {"HOME": str(run.home)})

    (after,) = set(folder.glob("wandb/offline-run-*")) - {before}
    (path,) = after.glob("*.wandb")
    stored = read_file(path)
    assert stored.run["id"] == run.stored.run["id"]
    steps = [point["step"] for point in stored.history if "train/loss" in point]
    assert steps == [2]
