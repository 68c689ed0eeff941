"""Links in the documents lead somewhere: files exist, and so do the headings that they name."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.pages import NAMES, ROOT, anchors, links


@pytest.mark.parametrize("page", NAMES)
def test_links_lead_to_files_and_headings_that_exist(page: str) -> None:
    for link in links(page):
        if not link.startswith(("https://", "http://")):
            file, _, anchor = link.partition("#")
            target = (ROOT / page).parent / file if file else ROOT / page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


def test_the_index_leads_to_every_page() -> None:
    linked = {Path(link.partition("#")[0]).name for link in links("docs/README.md")}
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert pages <= linked


def test_anchors_are_those_of_the_headings(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A page\n\n```sh\n# no heading\n```\n\n## The 1.3 points, `x`: why?\n")
    assert anchors(page) == {"a-page", "the-13-points-x-why"}
