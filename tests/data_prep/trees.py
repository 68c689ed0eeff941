"""Small trees of real videos in the layouts of data sets, and what `index` makes of them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from data_prep.__main__ import main
from tests.videos import write_numbered
from videogn.data.manifest import Manifest, read_manifest

SKIING = "skiing (not slalom or crosscountry)"  # its id, 308, changes when folders are sorted


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_numbered(tmp_path_factory.mktemp("clip") / "clip.mp4", 2).read_bytes()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    return folder


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def index(source: Path, *options: object) -> dict[str, Manifest]:
    """The manifests by split that `index` writes beside `source`."""
    out = source.parent / "root"
    assert run("index", source, "--out", out, *options) == 0
    splits = [name for name in ("train", "val", "test") if (out / f"{name}.csv").exists()]
    return {name: read_manifest(out, name) for name in splits}


def listed(manifest: Manifest) -> dict[str, str]:
    """The class name of each path."""
    return {
        path: manifest.classes[label]
        for path, label in zip(manifest.paths, manifest.labels, strict=True)
    }


def put(source: Path, paths: Iterable[str], clip: bytes) -> None:
    for path in paths:
        file = source / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(clip)


def put_tar(file: Path, members: Mapping[str, bytes]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def refused(source: Path, capsys: pytest.CaptureFixture[str], *options: object) -> str:
    """The error that `index` ends with; it must write nothing."""
    out = source.parent / "root"
    assert run("index", source, "--out", out, *options) == 3
    assert not out.exists()
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


def put_lists(source: Path, **texts: str | bytes) -> list[Path]:
    """Lists beside `source`; `_dot_` in a name stands for a dot."""
    files = []
    for name, text in texts.items():
        file = source.parent / name.replace("_dot_", ".")
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        files.append(file)
    return files
