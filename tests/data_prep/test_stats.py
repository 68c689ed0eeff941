from __future__ import annotations

import re
import shutil
import tarfile
from html.parser import HTMLParser
from pathlib import Path

import pytest

from data_prep import stats as stats_command
from data_prep.__main__ import main
from data_prep.progress import length_text, number_of, size_text
from data_prep.root_stats import Stats, read_stats, remarks, spread
from data_prep.roots import read_root
from data_prep.stats_page import _without_gaps, histogram
from tests.data_prep.test_verify import write_root
from tests.videos import write_numbered
from videogn.report.text import printable

EVIL = '<script>alert(1)</script>&".mp4'


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes, a short video, a copy of it, a bad, a missing and a repeated one."""
    videos = tmp_path / "videos"
    videos.mkdir()
    write_numbered(videos / "long.mp4", 70)
    write_numbered(videos / "short.mp4", 10)
    shutil.copyfile(videos / "short.mp4", videos / "copy.mp4")
    (videos / EVIL).parent.mkdir()
    (videos / EVIL).write_text("no video")
    with tarfile.open(videos / "s.tar", "w") as tar:
        tar.add(videos / "long.mp4", "m.mp4")
    root = tmp_path / "root"
    train = ["long.mp4", "short.mp4", "long.mp4", EVIL, "gone.mp4", "s.tar::m.mp4"]
    write_root(root, {"train": train, "val": ["copy.mp4", "short.mp4"]}, label="a <b>")
    return root


def numbers(root: Path) -> Stats:
    return read_stats(read_root(root), short_below=64)


def verify(root: Path) -> None:
    assert main(["verify", str(root), "--jobs", "1", "--max-bad", "0.9"]) == 0


def test_an_unverified_root_has_counts_and_says_what_it_lacks(root: Path) -> None:
    stats = numbers(root)
    train, val = stats.splits["train"], stats.splits["val"]
    assert (train.rows, len(train.videos), len(train.missing), len(train.bad)) == (6, 5, 1, 0)
    assert (val.rows, len(val.videos), val.unverified) == (2, 2, 2)
    assert train.by_class == {"a <b>": 5}
    assert not stats.is_verified
    assert stats.shared == ["short.mp4"]
    assert stats.without("val") == ["other"]
    assert stats.without("test") == []
    text = "\n".join(stats_command.text_lines(stats))
    assert "not verified: lengths and faults are unknown; run `python -m data_prep verify" in text
    assert re.search(r"train +6 +5 +1 +\? +\? +\? ", text)
    assert "rows of train that repeat a video, which then counts more: 1" in text
    assert "videos in more than one split: 1, short.mp4" in text
    assert "classes without a video in val: 1, other" in text


@pytest.mark.parametrize("keeps_journal", [True, False])
def test_a_verified_root_has_lengths_and_faults(root: Path, keeps_journal: bool) -> None:
    verify(root)
    if not keeps_journal:  # as in a copy of the csv files alone
        (root / "verify.jsonl").unlink()
    stats = numbers(root)
    train = stats.splits["train"]
    assert [video.kind for video in train.bad] == ["not media"]
    assert [video.path for video in train.missing] == ["gone.mp4"]
    assert sorted(video.path for video in stats.short) == ["copy.mp4", "short.mp4"]
    assert train.seconds == pytest.approx((70 + 10 + 70) / 30, rel=1e-3)
    told = remarks(stats)
    assert "bad or missing: 1 not media, 1 missing" in told
    assert "frames of a video, least / median / most: 10 / 40 / 70" in told
    assert "videos of fewer than 64 frames: 2" in told
    if keeps_journal:
        assert stats.twins == [["long.mp4", "s.tar::m.mp4"], ["short.mp4", "copy.mp4"]]
        assert stats.twins_across == [["short.mp4", "copy.mp4"]]
        assert any("4 files have the content of another one: 2 groups" in line for line in told)


def test_files_alike_by_their_index_only_are_no_copies(root: Path) -> None:
    videos = root.parent / "videos"
    content = bytearray((videos / "copy.mp4").read_bytes())
    at = content.index(b"Lavf")  # a comment
    content[at : at + 4] = b"lavF"
    (videos / "copy.mp4").write_bytes(content)
    verify(root)
    assert numbers(root).twins == [["long.mp4", "s.tar::m.mp4"]]


class Page(HTMLParser):
    """The tags of a page that are open at its end, those that load something, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "br"):
            self.open.append(tag)
        self.loads += [f"{tag} {name}" for name, _ in attrs if name in ("src", "href")]
        if tag in ("script", "link", "img", "iframe"):
            self.loads.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_whole_loads_nothing_and_escapes_names(root: Path, tmp_path: Path) -> None:
    verify(root)
    out = tmp_path / "out.html"
    assert main(["stats", str(root), "--out", str(out)]) == 0
    content = out.read_text(encoding="utf-8")
    page = Page(content)
    assert page.open == []
    assert page.loads == []
    assert EVIL in page.text
    assert "a <b>" in page.text
    assert "<script" not in content
    assert "http" not in content
    assert "url(" not in content
    assert 'name="viewport"' in content
    assert "prefers-color-scheme: dark" in content
    for title in ("Splits", "Length, frames", "Missing and bad videos", "Classes"):
        assert title in page.text


def test_the_page_goes_into_the_root_and_needs_no_verification(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["stats", str(root)]) == 0
    assert str(root / "stats.html") in capsys.readouterr().out
    page = Page((root / "stats.html").read_text(encoding="utf-8"))
    assert page.open == []
    assert "not verified" in page.text
    assert f"run python -m data_prep verify {root}" in page.text  # as code, without backticks
    assert "Length" not in page.text


def test_bins_have_round_edges_and_hold_every_value() -> None:
    assert histogram([]) == []
    assert histogram([10.0]) == [("10", 1)]
    assert histogram([480] * 12) == [("480", 12)]
    assert histogram([1, 2, 3, 4]) == [
        ("1 to 1.5", 1),
        ("1.5 to 2", 0),
        ("2 to 2.5", 1),
        ("2.5 to 3", 0),
        ("3 to 3.5", 1),
        ("3.5 to 4", 0),
        ("4 to 4.5", 1),
    ]
    assert histogram([1.0] * 200 + [14.0] * 3) == [("1 to 2", 200), ("...", 0), ("14 to 15", 3)]
    assert _without_gaps([("a", 0), ("b", 1), ("c", 0), ("d", 2), ("e", 0)]) == [
        ("b", 1),
        ("c", 0),
        ("d", 2),
    ]
    values = [float(number % 100) for number in range(1000)] + [5000.0]
    bins = histogram(values)
    assert sum(number for _, number in bins) == 1001
    assert bins[-1][0] == "90 and more"
    assert len(bins) < 20


def test_words_for_terminals() -> None:
    assert spread([3, 1, 2, 2]) == "1 / 2 / 3"
    assert spread([]) == ""
    assert printable("a\n\x1b[31m é") == r"a\n\x1b[31m é"


def test_numbers_agree_with_their_nouns_and_units() -> None:
    assert number_of(1, "video") == "1 video"
    assert number_of(0, "class", "classes") == "0 classes"
    sizes = (1_234_000_000_000, 100_000_000, 99_999_999, 3_280_000, 9_590, 0)
    assert [size_text(n) for n in sizes] == [
        "1,234 GB",
        "0.1 GB",
        "100 MB",
        "3.28 MB",
        "9.59 kB",
        "0 kB",
    ]
    seconds = (3600.0, 463.4, 59.6, 26.28, 5.9, 0.0, 359_999.4, 2_415_600.0)
    assert [length_text(s) for s in seconds] == [
        "1:00:00",
        "0:07:43",
        "0:01:00",
        "26.3 s",
        "5.9 s",
        "0 s",
        "99:59:59",
        "671 h",
    ]
