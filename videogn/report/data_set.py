"""The part of the page on one data set: its runs, their curves, answers, settings and cost."""

from __future__ import annotations

from collections.abc import Sequence

from videogn.report.cost import clips_per_step, hardware, software, time_text, training_cost
from videogn.report.curves import curves
from videogn.report.explorer import (
    MAX_RUNS,
    Thumbnails,
    explored,
    explorer_data,
    video_folder,
)
from videogn.report.fig7 import panels
from videogn.report.html import Cell, chip, embedded_json, paragraph, safe, section, table
from videogn.report.records import Run
from videogn.report.settings import Group, Spread, by_setting, differing_values, result

_ANSWERS = "Answers of the test"
_LISTED_BAD = 100
_COST_NOTE = (
    "The steps alone; monitoring, checkpoints and the test come on top. Core hours are those of "
    "all cores of the machine."
)


def data_set_part(group: Group, anchor: str, thumbnails: Thumbnails) -> str:
    """Returns the HTML of a data set, under a heading with the id `anchor`."""
    runs = group.runs
    parts = [
        _results(runs),
        _seeds(runs),
        _curves(runs),
        _explorer(runs, thumbnails),
        _differences(runs),
        _bad(runs),
        _cost(runs),
    ]
    head = f'<h2 id="{anchor}">{safe(group.title)}</h2>{_extent(runs)}'
    return head + "".join(filter(None, parts))


def _extent(runs: Sequence[Run]) -> str:
    """How many videos and classes the tests are of, empty without a test."""
    tested = [run.predictions for run in runs if run.predictions]
    if not tested:
        return ""
    labels = len({p.label for p in tested[0]})
    return paragraph(f"{len(tested[0]):,} test videos of {labels:,} classes")


def _results(runs: Sequence[Run]) -> str:
    protocols = list(dict.fromkeys(str(run.test["protocol"]) for run in runs if run.test))
    header = ["run", "norm", "top-1", "top-5", "1-clip error", "frames", "clips/GPU", "clips/step"]
    header += ["seed", "videos", "failed"]
    several = len(protocols) > 1
    rows = []
    for run in reversed(runs):
        test, curve = run.test, run.curve
        row = [_name(run), Cell(run.norm, markup=chip(run.norm))]
        row += [_number(test[key], ".1f") if test else Cell() for key in ("top1", "top5")]
        row += [_number(curve[-1][1], ".1f") if curve else Cell()]
        row += [_config(run, key) for key in ("data.num_frames", "optim.clips_per_gpu")]
        row += [_number(clips_per_step(run), "d"), _config(run, "seed")]
        row += [_number(test["num_videos"], "d") if test else Cell()]
        row += [_number(len(test["failed"]), "d") if test else Cell()]
        if several:
            row.append(_number(protocols.index(test["protocol"]) + 1, "d") if test else Cell())
        rows.append(row)
    notes = [
        paragraph(f"Protocol{f' {n}' if several else ''}: {protocol}.")
        for n, protocol in enumerate(protocols, start=1)
    ]
    return section(
        "Results, percent",
        table("Runs and their accuracy", header + ["protocol"] * several, rows, words=2),
        *notes,
    )


def _seeds(runs: Sequence[Run]) -> str:
    """Mean and spread of settings with several seeds; empty when there is none."""
    settings = [[run for run in equal if run.test] for equal in by_setting(runs)]
    rows = []
    for equal in settings:
        top1, top5 = result(equal, "top1"), result(equal, "top5")
        if top1 and top5 and top1.seeds > 1:
            first = equal[0]
            sizes = [_config(first, key) for key in ("data.num_frames", "optim.clips_per_gpu")]
            name = [Cell(str(first.config.get("name"))), Cell(first.norm, markup=chip(first.norm))]
            rows.append([*name, *sizes, _number(top1.seeds, "d"), _spread(top1), _spread(top5)])
    header = ["experiment", "norm", "frames", "clips/GPU", "seeds", "top-1", "top-5"]
    title = "Mean and standard deviation over seeds, percent"
    return section(title, table(title, header, rows, words=2)) if rows else ""


def _curves(runs: Sequence[Run]) -> str:
    drawn = panels(runs)
    if not drawn:
        return ""
    note = (
        "The error of one clip a video, augmented as in training, as in Fig. 7 of the paper: not "
        "comparable with that of the test, and usually above it. Point at a curve, or use the "
        "arrow keys, for its values."
    )
    seeds = " Bands: from the least to the greatest of the seeds."
    several = any(line.seeds > 1 for panel in drawn for line in panel.lines)
    return section("Validation error over epochs", curves(drawn), paragraph(note + seeds * several))


def _explorer(runs: Sequence[Run], thumbnails: Thumbnails) -> str:
    tested = explored(runs)
    if not tested:
        return ""
    videos, why = video_folder(tested) if thumbnails.wanted else (None, "")
    data = embedded_json(explorer_data(tested, thumbnails, videos))
    if len(data) > thumbnails.page:
        return section(
            _ANSWERS,
            paragraph("Left out to keep the page under 10 MB; report on fewer runs at once."),
        )
    thumbnails.page -= len(data)
    names = [run.name for run in tested]
    first, second = _most_telling(tested)
    without = sum(run.test is not None for run in runs) - len(tested)
    remarks = [
        f"No pictures: {why}." if why else "",
        f"Left out here: {without} tests without predictions, or older than the newest {MAX_RUNS}."
        if without
        else "",
    ]
    two = len(tested) > 1
    menus = f"<span>{safe(names[0])}</span>"
    if two:
        menus = _menu("Run A", names, first) + _menu("Run B", names, second)
    of_a = " of run A" * two
    columns = ["B - A", "A, %", "B, %"] if two else ["accuracy, %"]
    class_table = table("Accuracy of each class", ["class", *columns, "videos"], []).replace(
        'class="wide"', 'class="wide tall"'
    )
    hint = "Whether two runs truly differ: python run.py compare A B, with an interval and a test."
    pair_table = table(
        "Most confused pairs", ["true class", "taken for", "videos", "% of the class"], [], words=2
    )
    return section(
        _ANSWERS,
        '<div class="explorer">'
        f'<div class="menus">{menus}'
        '<button type="button" aria-pressed="false">Pause thumbnails</button></div>',
        *(paragraph(remark) for remark in remarks if remark),
        f'<div class="two"><div><h4>Classes, the {"largest change" if two else "worst"} first</h4>'
        f'<div class="classes">{class_table}</div></div>'
        f'<div><h4>Confusions{of_a}</h4><div class="matrix"></div></div></div>'
        f'<h4>Most confused pairs{of_a}</h4><div class="pairs">{pair_table}</div>',
        '<h4>Wrong, and the surest of it, classes in turn</h4><ul class="videos wrong"></ul>'
        '<h4>Right, and the surest of it, classes in turn</h4><ul class="videos right"></ul>',
        paragraph(hint) if two else "",
        f'<script type="application/json">{data}</script></div>',
    )


def _most_telling(runs: Sequence[Run]) -> tuple[int, int]:
    """Returns two runs to show first: the best with BN and the best with GN, or the last two."""
    best = {run.norm: place for place, run in sorted(enumerate(runs), key=_top1)}
    if "BN" in best and "GN" in best:
        return best["BN"], best["GN"]
    return max(len(runs) - 2, 0), len(runs) - 1


def _top1(entry: tuple[int, Run]) -> float:
    return float((entry[1].test or {})["top1"])


def _menu(label: str, names: Sequence[str], chosen: int) -> str:
    options = "".join(
        f'<option value="{place}"{" selected" * (place == chosen)}>{safe(name)}</option>'
        for place, name in enumerate(names)
    )
    return f"<label>{label}<select>{options}</select></label>"


def _differences(runs: Sequence[Run]) -> str:
    differ = differing_values(runs)
    if not differ:
        return ""
    rows = [[key, *values] for key, values in differ.items()]
    header = ["key", *(run.name for run in runs)]
    title = "Where the configurations differ"
    return section(title, table(title, header, rows, words=len(header), css="text"))


def _bad(runs: Sequence[Run]) -> str:
    rows = []
    for run in runs:
        failed = [entry for entry in (run.test or {}).get("failed", []) if isinstance(entry, dict)]
        rows += [[path, run.name, "replaced in training", reason] for path, reason in run.bad]
        rows += [
            [str(entry.get("path")), run.name, "failed in the test", str(entry.get("reason"))]
            for entry in failed
        ]
    if not rows:
        return ""
    more = len(rows) - _LISTED_BAD
    header = ["video", "run", "what happened", "reason"]
    return section(
        f"Bad samples: {len(rows):,}",
        table("Bad samples", header, rows[:_LISTED_BAD], words=4, css="text"),
        paragraph(f"and {more:,} more, in the runs' own files") if more > 0 else "",
    )


def _cost(runs: Sequence[Run]) -> str:
    header = ["run", "machine", "started", "clips", "clips/s", "wall time", "device hours"]
    rows = []
    for run in runs:
        cost = training_cost(run)
        if cost is None:
            continue
        rate = cost.clips / cost.seconds if cost.seconds else None
        rows.append(
            [
                _name(run),
                Cell(hardware(run), css="phrase"),
                Cell(str(run.env.get("started", ""))[:16].replace("T", " "), css="nowrap"),
                _number(cost.clips, ",d"),
                _number(rate, ",.1f") if rate else Cell(),
                Cell(time_text(cost.seconds), cost.seconds, "nowrap"),
                Cell(f"{cost.hours:,.2f} {cost.device}-h", cost.hours, "nowrap"),
            ]
        )
    if not rows:
        return ""
    versions = dict.fromkeys(filter(None, (software(run) for run in runs)))
    return section(
        "Hardware and cost of the training",
        table("Hardware and cost", header, rows, words=2),
        paragraph(_COST_NOTE),
        *(paragraph(text) for text in versions),
    )


def _name(run: Run) -> Cell:
    kind = "" if run.is_training else ' <span class="soft">(test)</span>'
    kind += "" if run.test else ' <span class="soft">(not tested yet)</span>'
    return Cell(run.name, markup=safe(run.name) + kind)


def _config(run: Run, key: str) -> Cell:
    value = run.config.get(key)
    return Cell("" if value is None else str(value))


def _number(value: float, spec: str) -> Cell:
    return Cell(format(value, spec), float(value))


def _spread(value: Spread) -> Cell:
    return Cell(str(value), value.mean, "nowrap")
