"""The page without a browser: whole, closed to the network, escaped, and complete."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.report.page_runs import EVIL, EVIL_RUN, write_runs
from tests.report.run_folders import write_curve, write_run
from videogn.cli import main
from videogn.report.curves import ticks
from videogn.report.data_set import data_set_part
from videogn.report.explorer import Thumbnails
from videogn.report.html import embedded_json
from videogn.report.palette import NORM_COLOURS, OTHER_COLOURS
from videogn.report.predictions import read_predictions
from videogn.report.records import find_runs
from videogn.report.settings import Group, by_data_set
from videogn.report.write import write_report

VOID = {"meta", "br", "img", "input", "link"}


class Page(HTMLParser):
    """What the static checks look at: elements with their attributes, and the text in them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[tuple[str, str]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append((self.open[-1] if self.open else "", data))

    def said(self, *tags: str) -> list[str]:
        """The texts directly in elements of these kinds."""
        return [data for tag, data in self.text if tag in tags]

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of each element of a kind."""
        return [attrs for name, attrs in self.elements if name == tag]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_runs(tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def text(runs: Path) -> str:
    return write_report(runs)


@pytest.fixture(scope="module")
def content(runs: Path, text: str) -> str:
    return (runs / "report.html").read_text("utf-8")


@pytest.fixture(scope="module")
def page(content: str) -> Page:
    return Page(content)


@pytest.fixture(scope="module")
def data(page: Page) -> dict[str, Any]:
    """What the menus of the first data set choose from."""
    [found] = [text for text in page.said("script") if text.startswith("{")]
    return json.loads(found)


def test_the_page_is_whole_and_may_load_nothing(page: Page, content: str) -> None:
    assert page.open == []
    assert not {"link", "img", "iframe", "object"} & {tag for tag, _ in page.elements}
    assert [name for _, attrs in page.elements for name in attrs if name == "src"] == []
    assert content.count("http") == content.count("http://www.w3.org/2000/svg") + 1  # http-equiv
    assert "url(" not in content
    assert "innerHTML" not in content
    policy = next(m["content"] for m in page.all("meta") if "http-equiv" in m)
    script = page.said("script")[-1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy == (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'"
    )


def test_names_stay_names(page: Page, content: str, data: dict[str, Any]) -> None:
    assert len(page.all("script")) == 2  # the data and ours
    assert not [attrs for _, attrs in page.elements if any(k.startswith("on") for k in attrs)]
    assert EVIL_RUN in page.said("th", "option")
    assert EVIL in page.said("td")
    assert f"truncated {EVIL}" in page.said("td")
    assert f"moov {EVIL}" in page.said("td")
    assert EVIL in data["classes"]
    assert content.count("<script") == 2


def test_json_in_the_page_cannot_end_its_element() -> None:
    value = {"a": "</script><!--", "b": "\u2028\ud800&"}
    text = embedded_json(value)
    assert not set("<>&") & set(text)
    assert text.isascii()
    assert json.loads(text) == value
    with pytest.raises(ValueError, match="not JSON compliant"):
        embedded_json(float("nan"))


def test_links_lead_somewhere_and_headings_descend_by_one(page: Page) -> None:
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(set(ids)) == len(ids)
    assert [a["href"] for a in page.all("a")] == ["#data1", "#table8"]
    assert {"data1", "table8"} <= set(ids)
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_tables_and_pictures_can_be_heard_and_reached_by_keyboard(page: Page) -> None:
    tables = len(page.all("table"))
    assert tables >= 7
    assert len(page.all("caption")) == tables
    heads = [th for th in page.all("th") if th.get("scope") == "col"]
    assert len(page.all("button")) == len(heads) + 1  # and that of the thumbnails
    assert all(th["aria-sort"] == "none" for th in heads)
    regions = [div for div in page.all("div") if div.get("role") == "region"]
    assert len(regions) == tables
    assert all(div["tabindex"] == "0" and div["aria-label"] for div in regions)
    curves = [svg for svg in page.all("svg") if "aria-hidden" not in svg]
    assert [svg["role"] for svg in curves] == ["img", "img"]
    assert curves[0]["aria-label"] == (
        "1-clip validation error, % of BN over epochs, the last values: "
        "32 frames, 8 clips: 62.0 % at epoch 2"
    )


def test_it_is_made_for_telephones_and_dark_rooms(page: Page, content: str) -> None:
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all(
        "meta"
    )
    assert "prefers-color-scheme: dark" in content
    assert "prefers-reduced-motion" in content
    assert page.all("html") == [{"lang": "en"}]
    assert len(content) < 100_000


def test_colours_stand_out_from_their_grounds(content: str) -> None:
    light, dark = (
        dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", part))
        for part in content.split("prefers-color-scheme: dark")[:2]
    )
    for scheme, place in ((light, 0), (dark, 1)):
        norms = [colours[place] for colours in (*NORM_COLOURS.values(), OTHER_COLOURS)]
        for colour in (*norms, *(scheme[name] for name in ("ink", "soft", "good", "bad", "focus"))):
            for ground in (scheme["page"], scheme["card"]):
                assert contrast(colour, ground) >= 4.5, (colour, ground)


def contrast(one: str, other: str) -> float:
    """WCAG 2's ratio of two colours."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        parts = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_everything_asked_for_is_there(page: Page) -> None:
    said = " ".join(page.said("h1", "h2", "h3", "h4", "td", "th", "p", "span", "li", "option"))
    for words in (
        *("Report on runs/", "3 runs, 1 further test, 1 data set", "6 test videos of 3 classes"),
        *("(not tested yet)", "(test)", "Protocol 1: 10 clips in words.", "Protocol 2: 3 crops."),
        *("What could not be read", "broken: no readable config.yaml, so it is left out"),
        *("Where the configurations differ", "model.norm.kind", "Hardware and cost"),
        *("8 x NVIDIA A100, 16 cores, Linux x86_64", "1,920", "0.01 GPU-h", "torch 2.15.0"),
        *("Bad samples: 4", "replaced in training", "failed in the test"),
        "No run here is one of these experiments",
    ):
        assert words in said, words


def test_the_menus_choose_from_what_the_tests_said(data: dict[str, Any], runs: Path) -> None:
    names = [run["name"] for run in data["runs"]]
    assert names == ["bn", EVIL_RUN, f"{EVIL_RUN}/test_last"]
    bn, gn = data["runs"][:2]
    evil, clap, jump = (data["classes"].index(name) for name in (EVIL, "clap", "jump"))
    triples = [tuple(bn["confusion"][at : at + 3]) for at in range(0, len(bn["confusion"]), 3)]
    assert triples == sorted(
        [
            *((evil, -1, 1), (evil, evil, 1), (clap, clap, 1), (clap, jump, 1)),
            *((jump, clap, 1), (jump, jump, 1)),
        ]
    )
    paths = [video["path"] for video in data["videos"]]
    assert [paths[place] for place in bn["wrong"]] == ["v3.mp4", "v1.mp4"]
    assert [paths[place] for place in bn["right"]] == ["v0.mp4", "v2.mp4", "gone.mp4"]
    assert [paths[place] for place in gn["wrong"]] == ["v3.mp4", "gone.mp4"]
    video = data["videos"][paths.index("v3.mp4")]
    assert video["said"][:2] == [[clap, 0.8, 0.01], [evil, 0.5, 0.01]]
    total = {p.path for p in read_predictions(runs / "bn" / "predictions.csv")}
    assert set(paths) < total


def test_a_single_run_is_not_compared_with_itself(runs: Path) -> None:
    [group] = by_data_set(find_runs(runs).runs)
    both, one = (
        Page(data_set_part(Group("x", chosen), "x", Thumbnails(wanted=0)))
        for chosen in (group.runs[:2], group.runs[:1])
    )
    for page, menus, column in ((both, 2, "B - A"), (one, 0, "accuracy, %")):
        assert len(page.all("select")) == menus
        assert [name for name in ("B - A", "accuracy, %") if name in page.said("button")] == [
            column
        ]
    told = " ".join(one.said("h4", "p"))
    assert "run A" not in told
    assert "compare A B" not in told
    assert "Classes, the worst first" in told
    assert "bn" in one.said("span")


def test_videos_move_and_those_that_are_gone_say_so(data: dict[str, Any]) -> None:
    videos = {video["path"]: video for video in data["videos"]}
    strip = videos["v0.mp4"]
    assert (strip["frames"], strip["width"], strip["height"]) == (8, 64, 64)
    assert strip["strip"].startswith("data:image/jpeg;base64,")
    assert "missing" not in strip
    assert "strip" not in videos["gone.mp4"]
    assert videos["gone.mp4"]["missing"]
    assert "/" not in videos["gone.mp4"]["missing"]


def test_the_room_for_thumbnails_is_kept_to(runs: Path) -> None:
    small = Thumbnails(wanted=3, room=1)
    made = [small.of(f"v{number}.mp4", runs.parent / "mine") for number in (0, 1, 0)]
    assert [list(one)[:1] for one in made] == [["strip"], ["missing"], ["strip"]]
    assert made[1] == {"missing": "left out to keep the page small"}
    assert Thumbnails(wanted=0).of("v0.mp4", runs.parent / "mine") == {}


def test_a_data_set_too_large_for_the_page_is_left_out_with_a_word(runs: Path) -> None:
    [group] = by_data_set(find_runs(runs).runs)
    thumbnails = Thumbnails(wanted=0, page=100)
    part = data_set_part(group, "x", thumbnails)
    assert "Left out to keep the page under 10 MB" in part
    assert "<script" not in part
    assert thumbnails.page == 100


def test_the_text_names_files_tests_and_what_is_broken(text: str, runs: Path) -> None:
    assert text.startswith("Tested runs:\n\n| run ")
    assert "No run here is of the paper's Table 8; table8.md holds the paper's numbers." in text
    assert f"| {EVIL_RUN}/test_last (test) | GN   |   33.3 / 83.3 |" in text
    assert "Not tested yet: going (epoch 2)" in text
    assert "warning: broken: no readable config.yaml, so it is left out" in text
    written = text.splitlines()[-1].removeprefix("Written: ").split(", ")
    assert [Path(path).name for path in written] == [
        *("table8.md", "table8.csv", "table8.png", "table8.svg"),
        *("fig7.png", "fig7.svg", "report.html"),
    ]
    assert all(Path(path).stat().st_size > 100 for path in written)
    for name, start in (("fig7.png", b"\x89PNG"), ("fig7.svg", b"<?xml")):
        assert (runs / name).read_bytes().startswith(start)
    assert not list(runs.glob(".*.part"))


def test_table_8_has_no_empty_columns_where_no_run_fills_it(page: Page) -> None:
    assert "paper top-1 / top-5" in page.said("button")
    assert not {"ours top-1 / top-5", "difference"} & set(page.said("button"))


def test_the_line_of_table_8_has_its_ends_and_a_key(page: Page, tmp_path: Path) -> None:
    spans = page.said("span")
    assert spans[spans.index("top-1, %") - 1 :][:3] == ["72.1", "top-1, %", "74.5"]
    key = "Ring: the paper's top-1, on a line from 72.1 % to 74.5 %, the least and the most in this"
    assert any(text.startswith(key) for text in page.said("p"))
    write_run(tmp_path / "gn", top1=70.0)
    write_report(tmp_path, thumbnails=0)
    filled = Page((tmp_path / "report.html").read_text("utf-8"))
    assert "70.0" in filled.said("span")
    assert any("top-1; dot: ours, on a line from 70.0 % to" in text for text in filled.said("p"))


def test_the_curves_are_not_said_to_lie_above_the_test(page: Page) -> None:
    said = " ".join(page.said("p"))
    assert "not comparable with that of the test, and usually above it." in said


def test_table_8_leads_once_a_run_fills_it(tmp_path: Path) -> None:
    for seed, top1 in enumerate([73.0, 74.0]):
        folder = write_run(tmp_path / f"gn{seed}", f"seed={seed}", top1=top1)
        write_curve(folder, [60.0, 50.0 + seed])
    assert write_report(tmp_path, thumbnails=0).startswith("Table 8 (arXiv:1803.08494)")
    page = Page((tmp_path / "report.html").read_text("utf-8"))
    assert page.said("h2") == ["Table 8: I3D ResNet-50 on Kinetics-400", "Kinetics-400"]
    assert "73.5 ± 0.7 / 90.5 ± 0.0" in page.said("td")
    assert "73.5 ± 0.7" in page.said("td")  # in the table of seeds
    assert {"ours top-1 / top-5", "difference", "clips/step"} <= set(page.said("button"))
    assert len([mark for mark in page.all("i") if mark.get("class") == "ours"]) == 1
    assert len(page.all("polygon")) == 1


def test_a_folder_without_results_is_refused_and_left_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(tmp_path)]) == 3
    assert f"{tmp_path} holds no run that was tested or monitored; " in capsys.readouterr().err
    assert main(["report", str(tmp_path / "gone")]) == 3
    assert list(tmp_path.iterdir()) == []

    (write_run(tmp_path / "run") / "test.json").write_text("{")
    before = sorted(tmp_path.rglob("*"))
    assert main(["report", str(tmp_path)]) == 3
    assert "(run: test.json is damaged, so the run counts as not tested)" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 100.0, [0, 20, 40, 60, 80, 100]),
        (16.7, 58.3, [10, 20, 30, 40, 50, 60]),
        (0.0, 109.0, [0, 20, 40, 60, 80, 100, 120]),
        (0.0, 14.0, [0, 5, 10, 15]),
        (50.0, 50.0, [50, 51]),
        (0.0, 0.0, [0.0, 0.02]),
    ],
)
def test_ticks_are_round_and_hold_the_values(low: float, high: float, expected: list) -> None:
    assert ticks(low, high) == pytest.approx(expected)
