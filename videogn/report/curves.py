"""Fig. 7 for the page: an SVG a panel, whose legend tells the values under the pointer."""

from __future__ import annotations

import math
from collections.abc import Sequence

from videogn.report.fig7 import Y_LABEL, Line, Panel, Point, bounds
from videogn.report.html import chip, norm_class, safe
from videogn.report.palette import DASHES

_WIDTH, _HEIGHT = 440, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 12, 38


class _Scale:
    """Places epochs and errors in the picture."""

    def __init__(self, drawn: Sequence[Panel]) -> None:
        last, low, high = bounds(drawn)
        self.epochs = ticks(0.0, last or 1.0)
        self.errors = ticks(low, high)
        self.last = last or 1.0
        self.low, self.high = min(low, self.errors[0]), max(high, self.errors[-1])

    def x(self, epoch: float) -> float:
        return _LEFT + epoch / self.last * (_WIDTH - _LEFT - _RIGHT)

    def y(self, error: float) -> float:
        share = (error - self.low) / ((self.high - self.low) or 1.0)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)


def curves(drawn: Sequence[Panel]) -> str:
    """Returns the panels side by side, all on the same axes; empty without any."""
    if not drawn:
        return ""
    scale = _Scale(drawn)
    figures = "".join(_figure(panel, scale) for panel in drawn)
    return f'<div class="panels">{figures}</div>'


def ticks(low: float, high: float) -> list[float]:
    """Returns about six round numbers from at most `low` to at least `high`."""
    span = high - low or max(abs(high), 1.0) / 10
    power = 10.0 ** math.floor(math.log10(span / 6))
    step = next(power * k for k in (1, 2, 5, 10) if power * k >= span / 6 * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, max(last, first + 1) + 1)]


def _figure(panel: Panel, scale: _Scale) -> str:
    lines = "".join(_line(line, scale) for line in panel.lines)
    legend = "".join(_entry(line) for line in panel.lines)
    said = "; ".join(f"{line.label}: {_told(line.points[-1])}" for line in panel.lines)
    label = f"{Y_LABEL} of {panel.norm} over epochs, the last values: {said}"
    return (
        f'<figure class="curve {norm_class(panel.norm)}"><figcaption>{chip(panel.norm)} '
        f'<span class="soft">{Y_LABEL}</span></figcaption>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" tabindex="0" aria-label="{safe(label)}" '
        f'data-left="{_LEFT}" data-span="{_WIDTH - _LEFT - _RIGHT}" data-last="{scale.last:.6g}">'
        f'{_axes(scale)}{lines}<line class="cursor" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}" '
        'x1="-9" x2="-9"/></svg>'
        f'<ul class="legend">{legend}</ul></figure>'
    )


def _axes(scale: _Scale) -> str:
    parts = []
    for error in scale.errors:
        y = scale.y(error)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" {_at("y", y)}/>')
        parts.append(f'<text x="{_LEFT - 7}" y="{y + 4:.1f}" class="end">{error:g}</text>')
    for epoch in scale.epochs:
        if epoch <= scale.last:
            x = scale.x(epoch)
            y = _HEIGHT - _BOTTOM + 17
            parts.append(f'<text x="{x:.1f}" y="{y}" class="middle">{epoch:g}</text>')
    x = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - 4}" class="middle">epoch</text>')
    return "".join(parts)


def _at(axis: str, place: float) -> str:
    return f'{axis}1="{place:.1f}" {axis}2="{place:.1f}"'


def _line(line: Line, scale: _Scale) -> str:
    places = " ".join(f"{scale.x(p.epoch):.1f},{scale.y(p.error):.1f}" for p in line.points)
    values = ";".join(f"{p.epoch:.6g},{p.error:.6g}" for p in line.points)
    band = ""
    if line.seeds > 1:
        edge = [(p.epoch, p.low) for p in line.points]
        edge += [(p.epoch, p.high) for p in reversed(line.points)]
        corners = " ".join(f"{scale.x(x):.1f},{scale.y(y):.1f}" for x, y in edge)
        band = f'<polygon class="band" points="{corners}"/>'
    dots = ""
    if len(line.points) < 15:
        dots = "".join(
            f'<circle cx="{scale.x(p.epoch):.1f}" cy="{scale.y(p.error):.1f}" r="2.6"/>'
            for p in line.points
        )
    return f'{band}<polyline points="{places}" data-points="{values}"{_dash(line.style)}/>{dots}'


def _entry(line: Line) -> str:
    seeds = f", {line.seeds} seeds" if line.seeds > 1 else ""
    return (
        f'<li><svg viewBox="0 0 34 8" aria-hidden="true"><line x1="1" x2="33" y1="4" y2="4"'
        f"{_dash(line.style)}/></svg><span>{safe(line.label + seeds)}</span>"
        f"<output>{_told(line.points[-1])}</output></li>"
    )


def _told(point: Point) -> str:
    return f"{point.error:.1f} % at epoch {point.epoch:.4g}"


def _dash(style: int) -> str:
    lengths = DASHES[style % len(DASHES)]
    return f' stroke-dasharray="{" ".join(f"{2 * x:g}" for x in lengths)}"' if lengths else ""
