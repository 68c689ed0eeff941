"""The page of an analysis: one HTML file, whose videos with heat lie beside it."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from urllib.parse import quote

from videogn.analysis.calibration import Calibration
from videogn.analysis.found import Analysis, Cam
from videogn.analysis.inline_svg import DARK_COLOURS, inline_svg
from videogn.analysis.mistakes import class_scores, confused_pairs
from videogn.analysis.noise import Noise
from videogn.report.html import Cell, chip, paragraph, safe, section, table
from videogn.report.page import document
from videogn.report.thumbnails import encode_strip

_PAIRS = 30

Figures = Mapping[str, str]  # name -> SVG


def page(found: Analysis, calibrated: Calibration | None, figures: Figures) -> str:
    """Returns the text of the page, with those of `figures` that belong to what was found."""
    title = f"{found.checkpoint}, step {found.step}"
    parts = [
        f"<header><h1>{safe(title)}</h1><p>{chip(found.norm)}</p></header>{DARK_COLOURS}",
        _missing(found.missing),
        _test(found, calibrated, figures),
        _features(found, figures),
        _noise(found.noise, figures) if found.noise else "",
        _cams(found.cams),
        _not_asked(found.not_asked),
    ]
    return document(f"Analysis of {title}", "\n".join(part for part in parts if part))


def _missing(sentences: Sequence[str]) -> str:
    items = "".join(f"<li>{safe(sentence)}</li>" for sentence in sentences)
    text = section("What could not be shown", f"<ul>{items}</ul>", level=2)
    return text.replace("<section>", '<section class="problems">', 1) if items else ""


def _not_asked(sentences: Sequence[str]) -> str:
    """Returns the end of the page: what else there is to see, for whoever wants it."""
    items = "".join(f"<li>{safe(sentence)}</li>" for sentence in sentences)
    return f'<footer class="soft">Not asked for:<ul>{items}</ul></footer>' if items else ""


def _figure(figures: Figures, name: str, told: str) -> str:
    if name not in figures:
        return ""
    return f'<figure class="wide">{inline_svg(figures[name], told)}</figure>'


def _test(found: Analysis, calibrated: Calibration | None, figures: Figures) -> str:
    if not found.test:
        return ""
    test = found.test
    said = f"Top-1 {test['top1']:.1f} %, top-5 {test['top5']:.1f} % of {test['num_videos']} videos"
    return (
        "<h2>What it gets right</h2>"
        + section("The test", paragraph(f"{said}: {test['protocol']}."))
        + (_calibration(calibrated, figures) if calibrated else "")
        + section("Classes, the weakest first", _classes(found))
        + section(
            "What is taken for what",
            _pairs(found),
            _figure(figures, "confusion", "Confusion matrix, percent of each class"),
        )
    )


def _calibration(found: Calibration, figures: Figures) -> str:
    said = (
        f"It says {100 * found.confidence:.1f} % on average and is right in "
        f"{100 * found.accuracy:.1f} % of {found.videos} videos. Expected calibration error: "
        f"{100 * found.ece_width:.1f} % over bins of equal width, {100 * found.ece_mass:.1f} % "
        f"over bins of as many videos; exact probabilities would by chance give "
        f"{100 * found.chance_width:.1f} % and {100 * found.chance_mass:.1f} % of so many videos. "
        f"Brier score of the top class: {found.brier_top:.3f}."
    )
    if found.nll is not None:
        said += f" Negative log-likelihood of the class: {found.nll:.3f}."
    told = "Reliability diagrams: accuracy over probability, near the diagonal if calibrated"
    return section(
        "Is it as often right as it says?",
        paragraph(said),
        _figure(figures, "calibration", told),
        paragraph(
            "Red: the gap to the diagonal, of which ECE is the mean; strong bars: more videos."
        ),
    )


def _classes(found: Analysis) -> str:
    header = ["class", "mostly taken for", "times", "top-1, %", "top-5, %", "videos", "not read"]
    rows = [
        [
            score.label,
            score.mistaken_for,
            *(
                Cell(f"{number:.{digits}f}", value=number)
                for number, digits in (
                    (score.mistakes, 0),
                    (score.top1, 1),
                    (score.top5, 1),
                    (score.videos, 0),
                    (score.failed, 0),
                )
            ),
        ]
        for score in class_scores(found.predictions)
    ]
    text = table("Accuracy of each class", header, rows, words=2)
    return text.replace('class="wide"', 'class="wide tall"', 1)


def _pairs(found: Analysis) -> str:
    pairs = confused_pairs(found.predictions)[:_PAIRS]
    rows = [
        [
            pair.label,
            pair.prediction,
            Cell(f"{pair.videos} of {pair.of}", value=pair.videos),
        ]
        for pair in pairs
    ]
    if not rows:
        return paragraph("No video that could be read was taken for another class.")
    text = table("Confused pairs", ["class", "taken for", "videos"], rows, words=2, css="pairs")
    return text.replace('class="wide"', 'class="wide tall"', 1)


def _features(found: Analysis, figures: Figures) -> str:
    if not found.percentiles:
        return ""
    first, last = found.shown_layers
    header = ["layer", *(f"{end} {p} %" for end in ("in", "out") for p in (1, 20, 80, 99))]
    rows = [
        [name, *(_value(v) for end in ("in", "out") for v in ends[end])]
        for name, ends in found.percentiles[-1][1].items()
    ]
    every = table("Percentiles of every layer, the last recorded", header, rows)
    return "<h2>Features over training (Fig. 6)</h2>" + section(
        f"{last} and {first}",
        paragraph(
            "Percentiles 1, 20, 80 and 99 of what enters and leaves the normalization, before "
            "addition and ReLU, in evaluation mode, over the same 8 validation clips each time."
        ),
        _figure(figures, "percentiles_last", f"Percentiles of {last} over epochs"),
        _figure(figures, "percentiles_first", f"Percentiles of {first} over epochs"),
        f"<details><summary>All layers at epoch {found.percentiles[-1][0]:.4g}</summary>{every}"
        "</details>",
    )


def _value(value: float | None) -> Cell:
    return Cell("not finite") if value is None else Cell(f"{value:.3g}", value=value)


def _noise(noise: Noise, figures: Figures) -> str:
    header = [
        "clips",
        "noise of mean",
        "of scale",
        *(f"{name}: change, %" for name in noise.answers),
    ]
    header += [f"{name}: other class, %" for name in noise.answers]
    rows = []
    for size in noise.statistics:
        middle = noise.medians(size)
        answers = [each[size] for each in noise.answers.values()]
        rows.append(
            [
                Cell(str(size), value=size),
                Cell(f"{middle.mean:.3f}", value=middle.mean),
                Cell(f"{middle.scale:.3f}", value=middle.scale),
                *(Cell(exactly(100 * a.change), value=a.change) for a in answers),
                *(Cell(f"{100 * a.flips:.1f}", value=a.flips) for a in answers),
            ]
        )
    return (
        "<h2>What the other clips of a batch change</h2>"
        + section(
            "Statistics of each layer's input, from batch to batch",
            paragraph(
                f"BN would normalize with the mean and deviation of each batch. Of {noise.clips} "
                "validation clips under training augmentation, batches drawn with replacement; "
                "the deviation of these statistics between batches. GN's are of one clip."
            ),
            _figure(figures, "noise_layers", "Noise of BN's statistics over the batch size"),
        )
        + section(
            "Answers for the same clip in different company",
            paragraph(
                "Logits in training mode without dropout, each clip in "
                f"{noise.rounds} batches of different other clips: their deviation from the clip's "
                "average. 0 is zero to the bit."
            ),
            _figure(figures, "noise_answers", "Change of the answers over the batch size"),
            table("Noise by batch size; medians over layers", header, rows, words=0),
        )
    )


def exactly(percent: float) -> str:
    """Returns a percentage; one that is not zero never looks like 0."""
    return "0" if percent == 0 else f"{percent:.1f}" if percent >= 0.05 else f"{percent:.1e}"


def _cams(cams: Sequence[Cam]) -> str:
    if not cams:
        return ""
    items = "".join(_cam(cam) for cam in cams)
    return "<h2>Where and when it looks</h2>" + section(
        "Grad-CAM", f'<ul class="videos">{items}</ul>'
    )


def _cam(cam: Cam) -> str:
    frames = cam.frames[
        :, :: max(1, cam.frames.shape[1] // 144), :: max(1, cam.frames.shape[1] // 144)
    ]
    strip = encode_strip(frames[:, : frames.shape[1] // 2 * 2, : frames.shape[2] // 2 * 2])
    source = base64.b64encode(strip.jpeg).decode("ascii")
    best = max(probability for _, _, probability in cam.windows)
    shape = f"aspect-ratio:{strip.width} / {strip.height};--frames:{strip.frames}"
    return (
        f'<li><div class="strip" style="{shape}"><img src="data:image/jpeg;base64,{source}" '
        f'alt="{strip.frames} frames of {safe(cam.video)} with heat"></div>'
        f'<a href="{quote(cam.file)}">{safe(cam.video)}</a>: {safe(cam.label)}, at most '
        f"{100 * best:.0f} % in a window</li>"
    )
