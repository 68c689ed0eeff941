"""Figures in the documents are those of the committed results that they name."""

from __future__ import annotations

import csv
import json
from typing import Any

import pytest

from tests.docs.pages import ROOT

RESULTS = ROOT / "benchmarks" / "results"


def page(name: str) -> str:
    """The text of a page of docs/."""
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def result(name: str) -> Any:
    """What a result file holds."""
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


STUDIES = {"": "study_cpu_long", ", half the clips": "study_cpu"}


def accuracies(study: str, norm: str) -> str:
    """A row of the documents: top-1 at 8, 4 and 2 clips, and at 2 of one video."""
    with (RESULTS / study / "tables.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["norm"] == norm and row["frames"] == "8"]
    of_part = {
        (row["part"], row["batch"]): f"{float(row['test']):.1f} ± {float(row['test_sd']):.1f}"
        for row in rows
    }
    wanted = [*(("main", batch) for batch in "842"), ("one video in a batch", "2")]
    return " | ".join(of_part[key] for key in wanted)


@pytest.mark.parametrize("norm", ["bn", "gn"])
def test_the_table_of_the_study_is_that_of_its_record(norm: str) -> None:
    rows = {
        f"| {norm.upper()}{words} | {accuracies(study, norm)} |" for words, study in STUDIES.items()
    }
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert rows <= set(page("choosing-norm.md").splitlines())
    assert f"| {norm.upper()} | {accuracies('study_cpu_long', norm)} |" in readme.splitlines()


def gains_of_precise_bn(study: str, *parts: str) -> list[float]:
    """Points of top-1 above running averages in each of BN's settings in the parts, ascending."""
    with (RESULTS / study / "tables.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["norm"] == "bn" and row["part"] in parts]
    return sorted(float(row["test"]) - float(row["test_running"]) for row in rows)


def test_what_precise_bn_is_worth_is_that_of_the_studies() -> None:
    longer, shorter = "study_cpu_long", "study_cpu"
    mixed = [gains_of_precise_bn(longer, "main")]
    mixed += [gains_of_precise_bn(shorter, "main", "longer clips")]
    long, short = (f"{gains[0]:.1f} to {gains[-1]:.1f}" for gains in mixed)
    long_of_one, short_of_one = (
        f"{gain:.1f}"
        for study in (longer, shorter)
        for gain in gains_of_precise_bn(study, "one video in a batch")
    )
    assert f"| {long} points in the longer [study]" in page("protocols.md")
    of_one = f", {long_of_one} with clips of one video; "
    assert f"{of_one}{short} and {short_of_one} in the shorter |" in page("protocols.md")
    assert (
        f"In the longer study it was worth {long} points over the running averages, {long_of_one} "
        f"where a batch's clips are of one video; in the shorter {short}, and {short_of_one}."
    ) in " ".join(page("choosing-norm.md").split())


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
