"""Where weights are looked for, and what is said when they are not there."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from http.client import IncompleteRead
from pathlib import Path
from typing import NoReturn
from urllib.error import HTTPError, URLError

import pytest
import torch

from videogn.config import load_config
from videogn.errors import WeightsError
from videogn.weights import KNOWN, find_weights, read_weights
from videogn.weights.files import KnownFile

URLS = {
    "R-50-GN.pkl": "https://dl.fbaipublicfiles.com/detectron/ImageNetPretrained/47261647/R-50-GN.pkl",
    "R-101-GN.pkl": "https://dl.fbaipublicfiles.com/detectron/ImageNetPretrained/47592356/R-101-GN.pkl",
    "resnet50": "https://download.pytorch.org/models/resnet50-0676ba61.pth",
    "resnet101": "https://download.pytorch.org/models/resnet101-63fe2227.pth",
}

Download = Callable[[str, str, str | None], None]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty torch.hub cache; nothing can be downloaded."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", failing(URLError("no network")))
    return tmp_path / "hub" / "checkpoints"


def failing(error: Exception) -> Download:
    def download(url: str, target: str, hash_prefix: str | None = None) -> NoReturn:
        raise error

    return download


def test_known_urls() -> None:
    assert {name: KNOWN[name].url for name in URLS} == URLS


def test_the_table_of_public_files() -> None:
    """Each name has an address, a place in the cache and a published error of its own."""
    assert len({known.url for known in KNOWN.values()}) == len(KNOWN) == 17
    assert len({known.cached for known in KNOWN.values()}) == len(KNOWN)
    for name, known in KNOWN.items():
        assert 15 < known.top1_error < 30, name
        assert known.note, name
        assert 90 < known.megabytes < 200, name
        assert known.data in ("ImageNet", "Kinetics-400"), name
        config = load_config("finetune.yaml", ["data.root=x", *known.options.split()])
        assert (config.model.arch == "i3d_r101") == ("101" in known.note), name


def test_an_existing_file_wins(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("resnet50").write_bytes(b"mine")
    assert find_weights("resnet50") == Path("resnet50")
    assert find_weights(tmp_path / "resnet50") == tmp_path / "resnet50"
    assert not cache.exists()


@pytest.fixture
def stated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the hash in the name of torchvision's file that of b"weights"."""
    name = f"resnet50-{hashlib.sha256(b'weights').hexdigest()[:8]}.pth"
    known = KnownFile(f"https://download.pytorch.org/models/{name}", "", 23.87)
    monkeypatch.setitem(KNOWN, "resnet50", known)


@pytest.mark.usefixtures("stated")
@pytest.mark.parametrize("name", ["R-50-GN.pkl", "resnet50", "detectron-R-50.pkl"])
def test_a_known_name_is_taken_from_the_cache(name: str, cache: Path) -> None:
    cache.mkdir(parents=True)
    cached = KNOWN[name].cached
    assert cached.parent == cache
    cached.write_bytes(b"weights")
    assert find_weights(name) == cached


@pytest.mark.usefixtures("stated")
def test_a_file_without_the_hash_in_its_name_is_refused(cache: Path) -> None:
    cache.mkdir(parents=True)
    KNOWN["resnet50"].cached.write_bytes(b"weights, cut")
    with pytest.raises(WeightsError, match=r"not the file it should be: .*; delete it$"):
        find_weights("resnet50")
    assert not list(cache.glob("*.sha256"))


def test_a_file_without_a_stated_hash_is_pinned(
    cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache.mkdir(parents=True)
    cached = KNOWN["R-50-GN.pkl"].cached
    cached.write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    with caplog.at_level("INFO", logger="videogn"):
        assert find_weights("R-50-GN.pkl") == find_weights("R-50-GN.pkl") == cached
    assert caplog.text.count(digest) == 1
    pin = cache / "R-50-GN.pkl.sha256"
    assert pin.read_text() == f"{digest}\n"
    assert sorted(cache.iterdir()) == [cached, pin]
    cached.write_bytes(b"other weights")
    with pytest.raises(WeightsError, match=rf"begins \w+, not {digest[:16]}; delete it, and R-50"):
        find_weights("R-50-GN.pkl")
    pin.write_text("")
    with pytest.raises(WeightsError, match="not the file it should be"):
        find_weights("R-50-GN.pkl")


def test_a_cache_that_cannot_be_written_is_used(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache.mkdir(parents=True)
    KNOWN["R-50-GN.pkl"].cached.write_bytes(b"weights")

    def refuse(*_: object, **__: object) -> NoReturn:
        raise PermissionError(30, "Read-only file system")

    monkeypatch.setattr(Path, "write_text", refuse)
    assert find_weights("R-50-GN.pkl").is_file()
    assert "could not be written" in caplog.text


@pytest.mark.usefixtures("stated")
@pytest.mark.parametrize("name", ["R-50-GN.pkl", "resnet50"])
def test_a_known_name_is_downloaded_once(
    name: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str | None]] = []

    def download(url: str, target: str, hash_prefix: str | None = None) -> None:
        asked.append((url, hash_prefix))
        Path(target).write_bytes(b"weights")

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    path = find_weights(name)
    assert path == find_weights(name) == KNOWN[name].cached
    prefix = hashlib.sha256(b"weights").hexdigest()[:8] if name == "resnet50" else None
    assert asked == [(KNOWN[name].url, prefix)]


@pytest.mark.parametrize(
    "error",
    [
        URLError("no network"),
        HTTPError("", 403, "Forbidden", None, None),  # type: ignore[arg-type]
        IncompleteRead(b""),
        RuntimeError("invalid hash value"),
        PermissionError(13, "Permission denied"),
    ],
)
def test_a_failed_download_says_what_to_do(
    error: Exception, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "download_url_to_file", failing(error))
    with pytest.raises(WeightsError) as caught:
        read_weights("R-50-GN.pkl")
    message = str(caught.value)
    assert message.startswith("R-50-GN.pkl could not be downloaded")
    assert "\n" not in message
    for part in (
        f"fetch {URLS['R-50-GN.pkl']} and put it at {cache / 'R-50-GN.pkl'}",
        "model.init=/path/to/file",
        "model.init=null",
    ):
        assert part in message


def test_an_unknown_name_gets_the_nearest_known_one(cache: Path) -> None:
    with pytest.raises(WeightsError, match=r"no known name; did you mean R-50-GN\.pkl\?"):
        find_weights("R-50-GN.pk")
    with pytest.raises(WeightsError, match=r"no known name; `run.py weights` lists those known"):
        find_weights("weights/none.pth")


def test_a_folder_is_no_file(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="is a folder, not a file"):
        find_weights(tmp_path)
