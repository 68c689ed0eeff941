"""What an analysis leaves: tables, figures, a page, and a summary for the terminal."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from matplotlib.figure import Figure

from videogn.analysis.calibration import Calibration, calibration
from videogn.analysis.figures import (
    draw_answer_noise,
    draw_calibration,
    draw_confusion,
    draw_layer_noise,
    draw_percentiles,
)
from videogn.analysis.found import Analysis
from videogn.analysis.leftovers import RESULTS, remove_leftovers
from videogn.analysis.mistakes import class_scores, confused_pairs, confusion_matrix
from videogn.analysis.page import exactly, page
from videogn.data.tables import write_text
from videogn.report.figures import save_figure
from videogn.report.text import markdown_table, printable
from videogn.runs import write_json

_WORST = 8  # rows of a table on the terminal


def write_analysis(found: Analysis) -> str:
    """Writes analysis.{json,html}, tables and figures to the folder; returns a summary.

    Files of an earlier analysis in the folder that the new one does not have are removed.
    """
    calibrated = calibration(found.predictions)
    figures = _figures(found, calibrated)
    svgs = {}
    for name, figure in figures.items():
        _, svg = save_figure(figure, found.folder / name)
        svgs[name] = svg.read_text(encoding="utf-8")
    tables = _tables(found) if found.predictions else {}
    for name, text in tables.items():
        write_text(found.folder / name, text)
    write_text(found.folder / "analysis.html", page(found, calibrated, svgs))
    kept = {f"{name}.{kind}" for name in figures for kind in ("png", "svg")}
    kept |= tables.keys() | {cam.file for cam in found.cams}
    removed = remove_leftovers(found.folder, kept)
    # Last: until then, what is there belongs to the earlier one.
    write_json(found.folder / RESULTS, _plain(found, calibrated))
    return _summary(found, calibrated, removed)


def _figures(found: Analysis, calibrated: Calibration | None) -> dict[str, Figure]:
    figures = {}
    if found.predictions:
        figures["confusion"] = draw_confusion(*confusion_matrix(found.predictions))
    if calibrated:
        figures["calibration"] = draw_calibration(calibrated)
    if found.percentiles:
        for name, layer in zip(("first", "last"), found.shown_layers, strict=True):
            points = [(epoch, each[layer]) for epoch, each in found.percentiles if layer in each]
            figures[f"percentiles_{name}"] = draw_percentiles(layer, points, found.norm)
    if found.noise:
        figures["noise_layers"] = draw_layer_noise(found.noise.statistics)
        figures["noise_answers"] = draw_answer_noise(found.noise.answers)
    return figures


def _tables(found: Analysis) -> dict[str, str]:
    """Returns the tables of the test: name of the file -> csv."""
    scores = [asdict(score) for score in class_scores(found.predictions)]
    pairs = [list(asdict(pair).values()) for pair in confused_pairs(found.predictions)]
    names, counts = confusion_matrix(found.predictions)
    rows = [[name, *row] for name, row in zip(names, counts, strict=True)]
    return {
        "classes.csv": _csv(list(scores[0]), [list(score.values()) for score in scores]),
        "pairs.csv": _csv(["label", "prediction", "videos", "of"], pairs),
        "confusion.csv": _csv(["label", *names, "(not read)"], rows),
    }


def _csv(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([header, *rows])
    return text.getvalue()


def _plain(found: Analysis, calibrated: Calibration | None) -> Mapping[str, Any]:
    return {
        "checkpoint": found.checkpoint,
        "step": found.step,
        "norm": found.norm,
        "test": found.test,
        "classes": [asdict(score) for score in class_scores(found.predictions)],
        "calibration": asdict(calibrated) if calibrated else None,
        "percentiles": [{"epoch": epoch, "layers": layers} for epoch, layers in found.percentiles],
        "noise": found.noise.plain() if found.noise else None,
        "cams": [
            {"video": cam.video, "file": cam.file, "class": cam.label, "windows": cam.windows}
            for cam in found.cams
        ],
        "missing": found.missing,
        "not_asked": found.not_asked,
    }


def _summary(found: Analysis, calibrated: Calibration | None, removed: Sequence[str]) -> str:
    parts = [f"{found.checkpoint}, step {found.step}, {found.norm}"]
    if found.test and calibrated:
        parts.append(
            f"Top-1 {found.test['top1']:.1f} %, top-5 {found.test['top5']:.1f} %; "
            f"it says {100 * calibrated.confidence:.1f} % on average. ECE "
            f"{100 * calibrated.ece_width:.1f} % (equal width), {100 * calibrated.ece_mass:.1f} % "
            f"(equal mass); {100 * calibrated.chance_width:.1f} % and "
            f"{100 * calibrated.chance_mass:.1f} % are to be expected by chance."
        )
    if found.predictions:
        parts.append(_weakest(found))
    if found.noise:
        parts.append(_noise(found))
    parts += [f"Heat: {found.folder / cam.file} for {cam.label}" for cam in found.cams]
    parts += [*found.missing, *found.not_asked]
    if removed:
        parts.append(f"Removed, of an earlier analysis: {', '.join(removed)}")
    parts.append(f"Written: {found.folder / 'analysis.html'} and what is beside it")
    return "\n\n".join(map(_printable_lines, parts))


def _weakest(found: Analysis) -> str:
    rows = [
        [s.label, s.mistaken_for, f"{s.top1:.1f}", f"{s.top5:.1f}", str(s.videos)]
        for s in class_scores(found.predictions)[:_WORST]
    ]
    return markdown_table(
        ["weakest class", "mostly taken for", "top-1", "top-5", "videos"], rows, words=2
    )


def _noise(found: Analysis) -> str:
    noise = found.noise
    assert noise is not None
    rows = []
    for size in noise.statistics:
        middle = noise.medians(size)
        changes = [exactly(100 * answers[size].change) for answers in noise.answers.values()]
        rows.append([str(size), f"{middle.mean:.3f}", f"{middle.scale:.3f}", *changes])
    header = ["clips", "noise of BN's mean", "of its scale"]
    header += [f"{name}: answers change, %" for name in noise.answers]
    return markdown_table(header, rows, words=0)


def _printable_lines(text: str) -> str:
    return "\n".join(printable(line) for line in text.split("\n"))
