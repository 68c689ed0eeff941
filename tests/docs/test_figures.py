"""Figures in the documents are those of the committed results that they name."""

from __future__ import annotations

import csv
import json
import re
from typing import Any

from tests.docs.pages import ROOT

RESULTS = ROOT / "benchmarks" / "results"


def page(name: str) -> str:
    """The text of a page of docs/."""
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def result(name: str) -> Any:
    """What a result file holds."""
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def test_the_table_of_the_study_is_that_of_its_record() -> None:
    with (RESULTS / "study_cpu" / "tables.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["part"] == "main"]
    rows = [row for row in rows if row["frames"] == "8"]
    assert sorted((row["norm"], row["batch"]) for row in rows) == sorted(
        (norm, batch) for norm in ("bn", "gn") for batch in "842"
    )
    text = page("choosing-norm.md")
    for norm in ("bn", "gn"):
        (line,) = re.findall(rf"^\| {norm.upper()} \| (\d+\.\d ± .*) \|$", text, re.MULTILINE)
        shown = [tuple(map(float, cell.split(" ± "))) for cell in line.split(" | ")]
        means = {
            row["batch"]: (float(row["test"]), float(row["test_sd"]))
            for row in rows
            if row["norm"] == norm
        }
        assert shown == [tuple(round(x, 1) for x in means[batch]) for batch in "842"]


def test_the_time_of_gn_beside_bn_is_that_measured() -> None:
    (setting,) = (one for one in result("step_cpu.json")["settings"] if one["frames"] == 32)
    ms = {row["name"]: row["ms"] for row in setting["rows"]}
    assert f"GN took {ms['GN'] / ms['BN']:.2f} of BN's time" in page("choosing-norm.md")


def test_the_cost_of_decoding_follows_from_the_times_measured() -> None:
    sections = {one["title"]: one["ms"] for one in result("decode_real.json")["sections"]}
    clips = 109.1 * 234_643
    text = page("reproduce-table8.md")
    for kind in ("64x1", "32x2"):
        ms = sections[f"3 clips of {kind}, 340x256, GOP 30"]["ours, index in the manifest"] / 3
        assert f"x {ms:.1f} ms)" in text
        assert f"{clips * ms / 3.6e6:.0f} core-hours" in text
