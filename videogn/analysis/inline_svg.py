"""Figures as parts of a page: SVG elements whose colours follow the page's, light or dark."""

from __future__ import annotations

import re

from videogn.analysis.figures import GAP, GRID, GROUND, INK, SOFT
from videogn.report.html import safe
from videogn.report.palette import NORM_COLOURS

_PAGE_COLOURS = {
    GROUND: "none",
    INK: "var(--ink)",
    SOFT: "var(--soft)",
    GRID: "var(--grid)",
    GAP: "var(--bad)",
    # Where the ground is dark, a norm's colour is another, which goes under the old one's name.
    **{light: f"var(--{light[1:]},{light})" for light, _ in NORM_COLOURS.values()},
}
DARK_COLOURS = (
    "<style>@media (prefers-color-scheme: dark) { :root {"
    + "".join(f"--{light[1:]}:{dark};" for light, dark in NORM_COLOURS.values())
    + "} }</style>"
)


def inline_svg(svg: str, told: str) -> str:
    """Returns a figure as an SVG element, as wide as its place as long as its text can be read.

    Args:
        svg: what matplotlib wrote, drawn with the colours of `figures`.
        told: what it shows, for those who hear the page.
    """
    found = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    assert found, "matplotlib writes a viewBox"
    width = float(found[1])
    svg = svg[svg.index(">", svg.index("<svg")) + 1 :]
    svg = re.sub(r"<metadata>.*</metadata>|<style.*</style>", "", svg, flags=re.S)
    svg = re.sub(r' id="[a-z][a-z.\d]*_\d+"', "", svg)  # of groups; every figure has the same
    for colour, variable in _PAGE_COLOURS.items():
        svg = svg.replace(colour, variable)
    style = f"width:100%;height:auto;min-width:{0.8 * width:.0f}px;max-width:{1.35 * width:.0f}px"
    return (
        f'<svg {found[0]} role="img" aria-label="{safe(told)}" '
        f'style="{style};stroke-linejoin:round">{svg}'
    )
