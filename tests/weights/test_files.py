"""Where weights are looked for, and what is said when they are not there."""

from __future__ import annotations

from collections.abc import Callable
from http.client import IncompleteRead
from pathlib import Path
from typing import NoReturn
from urllib.error import HTTPError, URLError

import pytest
import torch

from videogn.errors import WeightsError
from videogn.weights import KNOWN, find_weights, read_weights

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
    assert {name: known.url for name, known in KNOWN.items()} == URLS


def test_an_existing_file_wins(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("resnet50").write_bytes(b"mine")
    assert find_weights("resnet50") == Path("resnet50")
    assert find_weights(tmp_path / "resnet50") == tmp_path / "resnet50"
    assert not cache.exists()


@pytest.mark.parametrize("name", URLS)
def test_a_known_name_is_taken_from_the_cache(name: str, cache: Path) -> None:
    cache.mkdir(parents=True)
    cached = cache / URLS[name].rsplit("/", 1)[-1]
    cached.write_bytes(b"weights")
    assert find_weights(name) == cached


@pytest.mark.parametrize(("name", "prefix"), [("R-50-GN.pkl", None), ("resnet50", "0676ba61")])
def test_a_known_name_is_downloaded_once(
    name: str, prefix: str | None, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str | None]] = []

    def download(url: str, target: str, hash_prefix: str | None = None) -> None:
        asked.append((url, hash_prefix))
        Path(target).write_bytes(b"weights")

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    path = find_weights(name)
    assert path == find_weights(name) == cache / URLS[name].rsplit("/", 1)[-1]
    assert asked == [(URLS[name], prefix)]


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


@pytest.mark.parametrize("source", ["R-50-GN.pk", "weights/none.pth", ""])
def test_an_unknown_name_lists_the_known_ones(source: str, cache: Path) -> None:
    with pytest.raises(
        WeightsError, match=r"known names are R-50-GN\.pkl, R-101-GN\.pkl, resnet50"
    ):
        find_weights(source)


def test_a_folder_is_no_file(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such file"):
        find_weights(tmp_path)
