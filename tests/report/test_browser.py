"""The page in a real browser: its policy lets its script run, and sorts and menus work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.report.browser import CHROMIUM, WHY_NOT, dom_of, run_in
from tests.report.page_runs import EVIL, EVIL_RUN, write_runs
from videogn.report.write import write_report

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CHROMIUM, reason=WHY_NOT)]

# What a reader does, and what the page then shows. Sections are found by their headings.
READER = """
const texts = (nodes) => [...nodes].map((node) => node.textContent);
const part = (title) => [...document.querySelectorAll("section")]
  .find((s) => s.querySelector("h2, h3").textContent === title);
const column = (table, at) => texts([...table.tBodies[0].rows].map((row) => row.cells[at]));
const told = { title: document.title };

const results = part("Results, percent").querySelector("table");
const heading = results.tHead.rows[0].cells;
told.tops = [column(results, 2)];
for (let click = 0; click < 2; click++) {
  heading[2].querySelector("button").click();
  told.tops.push(column(results, 2));
}
told.sorted = [...heading].map((th) => th.getAttribute("aria-sort"));
heading[0].querySelector("button").click();
told.names = column(results, 0);
told.sortable = [...document.querySelectorAll("table")].map((table) => {
  const button = table.tHead.rows[0].cells[0].querySelector("button");
  button.focus();
  button.click();
  return document.activeElement === button && button.parentNode.ariaSort !== "none";
});

const root = document.querySelector(".explorer");
const explorer = () => ({
  classes: [...root.querySelectorAll(".classes tbody tr")].map((row) => texts(row.cells)),
  pairs: [...root.querySelectorAll(".pairs tbody tr")].map((row) => texts(row.cells)),
  matrix: root.querySelector(".matrix svg").getAttribute("aria-label"),
  cells: root.querySelectorAll(".matrix .cell").length,
  wrong: texts(root.querySelectorAll(".wrong li")),
  right: texts(root.querySelectorAll(".right li strong")),
  images: [...root.querySelectorAll("img")].map((i) => [i.alt, i.naturalWidth, i.naturalHeight]),
});
root.querySelectorAll("[aria-sort]").forEach((th) => th.setAttribute("aria-sort", "none"));
const [a, b] = root.querySelectorAll("select");
a.dispatchEvent(new Event("change"));
told.first = explorer();
[a.value, b.value] = [b.value, a.value];
b.dispatchEvent(new Event("change"));
told.second = explorer();
const cell = root.querySelector(".matrix .cell");
cell.dispatchEvent(new PointerEvent("pointerover", { bubbles: true }));
told.pointed = root.querySelector(".matrix output").textContent;

const strip = root.querySelector(".strip img");
const state = () => [root.querySelector(".menus button").ariaPressed,
  getComputedStyle(strip).animationPlayState, getComputedStyle(strip).animationName];
told.moving = [state()];
root.querySelector(".menus button").click();
told.moving.push(state());

const curve = document.querySelectorAll(".curve")[1];
const svg = curve.querySelector("svg[data-last]");
const values = () => texts(curve.querySelectorAll(".legend output"));
told.curve = [values()];
for (const key of ["ArrowLeft", "ArrowLeft", "ArrowLeft", "ArrowRight"]) {
  svg.dispatchEvent(new KeyboardEvent("keydown", { key, cancelable: true }));
  told.curve.push(values());
}
svg.dispatchEvent(new Event("pointerleave"));
told.curve.push(values());
const box = svg.getBoundingClientRect();
svg.dispatchEvent(new PointerEvent("pointermove", { clientX: box.left + box.width * 0.37 }));
told.curve.push(values());

told.links = [...document.querySelectorAll("a")].map((link) => {
  link.click();
  return document.querySelector(":target")?.textContent;
});
return told;
"""

# The page within a frame as wide as a telephone, where its media queries apply; each name in the
# menus is longer than that.
TELEPHONE = """
const frame = document.createElement("iframe");
frame.style.cssText = "width:WIDTHpx;height:844px;border:0";
document.body.append(frame);
const inner = frame.contentDocument;
const copy = document.documentElement.cloneNode(true);
copy.querySelectorAll("script, iframe, pre").forEach((element) => element.remove());
copy.querySelectorAll("option").forEach((name) => { name.textContent = "i3d_bn_32f_".repeat(9); });
inner.write(copy.outerHTML);
inner.close();
const wide = [...inner.querySelectorAll("main *")].filter((element) =>
  !element.closest(".wide table, .strip, caption") &&
  element.getBoundingClientRect().right > inner.documentElement.clientWidth);
const { scrollWidth, clientWidth } = inner.documentElement;
return { over: scrollWidth - clientWidth, wide: wide.map((e) => e.outerHTML.slice(0, 80)),
  font: frame.contentWindow.getComputedStyle(inner.body).fontSize };
"""

DARK = """
const style = getComputedStyle(document.body);
return [style.backgroundColor, style.color,
  getComputedStyle(document.querySelector(".norm-GN")).getPropertyValue("--norm").trim()];
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = write_runs(tmp_path_factory.mktemp("browser"))
    write_report(runs)
    return runs / "report.html"


@pytest.fixture(scope="module")
def told(page: Path) -> dict[str, Any]:
    return run_in(page, READER)


def test_the_policy_lets_the_pages_own_script_run_and_no_name_does(page: Path) -> None:
    dom = dom_of(page)
    assert "<title>Report on runs/</title>" in dom
    assert dom.count('class="cell"') == 6
    assert dom.count("<script") == 2


def test_tables_sort_both_ways_and_leave_the_empty_last(told: dict[str, Any]) -> None:
    assert told["title"] == "Report on runs/"
    assert told["tops"] == [
        ["", "33.3", "50.0", "50.0"],
        ["50.0", "50.0", "33.3", ""],
        ["33.3", "50.0", "50.0", ""],
    ]
    assert told["sorted"][:4] == ["none", "none", "ascending", "none"]
    tested = ["bn", EVIL_RUN, f"{EVIL_RUN}/test_last (test)", "going (not tested yet)"]
    assert told["names"] == sorted(tested, key=str.lower)
    assert told["sortable"]
    assert all(told["sortable"])


def test_the_menus_show_how_two_runs_differ(told: dict[str, Any]) -> None:
    first, second = told["first"], told["second"]
    assert first["classes"] == [
        [EVIL, "-50.0", "50.0", "0.0", "2"],
        ["clap", "+50.0", "50.0", "100.0", "2"],
        ["jump", "0.0", "50.0", "50.0", "2"],
    ]
    assert second["classes"] == [
        [EVIL, "+50.0", "0.0", "50.0", "2"],
        ["clap", "-50.0", "100.0", "50.0", "2"],
        ["jump", "0.0", "50.0", "50.0", "2"],
    ]
    assert first["pairs"] == [
        [EVIL, "could not be read", "1", "50.0"],
        ["clap", "jump", "1", "50.0"],
        ["jump", "clap", "1", "50.0"],
    ]
    assert first["matrix"] == (
        "Confusion matrix of bn, 3 classes: 3 of 6 videos on the diagonal; rows are the true "
        "classes, columns what they were taken for"
    )
    assert (first["cells"], second["cells"]) == (6, 5)
    assert told["pointed"] == (
        f"{EVIL}, taken for nothing: could not be read: 1 of 2 videos (50.0 %)"
    )


def test_a_single_run_has_an_accuracy_a_class_and_no_change(tmp_path: Path) -> None:
    runs = write_runs(tmp_path)
    write_report(runs / "bn", thumbnails=0)
    script = """
const texts = (nodes) => [...nodes].map((node) => node.textContent);
const rows = [...document.querySelectorAll(".classes tbody tr")];
return [rows.map((row) => texts(row.cells)), texts(document.querySelectorAll(".wrong .chip"))];
"""
    classes, chips = run_in(runs / "bn" / "report.html", script)
    assert sorted(classes) == sorted([name, "50.0", "2"] for name in (EVIL, "clap", "jump"))
    assert set(chips) == {"BN"}


def test_videos_are_named_with_what_each_run_said_of_them(told: dict[str, Any]) -> None:
    assert [text.replace("\u00a0", " ") for text in told["first"]["wrong"]] == [
        f"jumpA, BN clap 80.0 %, true one 1.0 %B, GN {EVIL} 50.0 %, true one 1.0 %v3.mp4",
        "clapA, BN jump 70.0 %, true one 1.0 %B, GN clap 60.0 %v1.mp4",
    ]
    assert told["first"]["right"] == ["clap", "jump", EVIL]
    assert told["first"]["images"] == [
        [f"8 frames of v{number}.mp4", 8 * 64, 64] for number in (3, 1, 0, 2)
    ]
    assert told["moving"] == [["false", "running", "play"], ["true", "paused", "play"]]


def test_curves_tell_their_values(told: dict[str, Any]) -> None:
    last, third, *back = told["curve"]
    assert last == ["45.0 % at epoch 3"]
    assert third == ["50.0 % at epoch 2"]
    assert [values for [values] in back] == [
        "70.0 % at epoch 1",
        "70.0 % at epoch 1",
        "50.0 % at epoch 2",
        "45.0 % at epoch 3",
        "70.0 % at epoch 1",
    ]


def test_links_lead_to_their_parts(told: dict[str, Any]) -> None:
    assert told["links"] == ["mine", "Table 8: I3D ResNet-50 on Kinetics-400"]


@pytest.mark.parametrize("width", ["390", "500"])
def test_nothing_sticks_out_on_a_telephone(page: Path, width: str) -> None:
    assert run_in(page, TELEPHONE.replace("WIDTH", width)) == {
        "over": 0,
        "wide": [],
        "font": "14px",
    }


def test_it_is_dark_where_that_is_preferred(page: Path) -> None:
    assert run_in(page, DARK) == ["rgb(245, 246, 248)", "rgb(25, 29, 34)", "#1d5fa8"]
    dark = run_in(page, DARK, "--blink-settings=preferredColorScheme=0")
    assert dark == ["rgb(19, 22, 26)", "rgb(232, 234, 237)", "#7fb6f2"]
