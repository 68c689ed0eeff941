"""The documents as data: their fences, commands, spans of code, headings and links."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "data_prep" / "README.md",
    ROOT / "configs" / "cluster" / "README.md",
    ROOT / "benchmarks" / "README.md",
]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]

_FENCE = re.compile(r"^( *)```([^\n`]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Fence:
    """A fenced block: what stands behind its first ticks, its text and its first line's number."""

    mark: str
    text: str
    line: int


def fences(page: str, mark: str) -> list[Fence]:
    """The blocks of a page whose mark begins with the word `mark`."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = [
        Fence(match[2].strip(), match[3], text[: match.start(3)].count("\n") + 1)
        for match in _FENCE.finditer(text)
    ]
    return [fence for fence in found if fence.mark.split(" ")[0] == mark]


def prose(page: str) -> str:
    """A page without its fenced blocks."""
    return _FENCE.sub("", (ROOT / page).read_text(encoding="utf-8"))


def code_spans(page: str) -> list[str]:
    """What stands between single ticks in the prose of a page."""
    return [span.replace("\n", " ") for span in re.findall(r"`([^`]+)`", prose(page))]


def commands(page: str) -> list[list[str]]:
    """The words of each simple command in the `sh` blocks of a page, in order.

    Comments, pipes, `&&` and redirections are the shell's and do not belong to a command.
    """
    found: list[list[str]] = []
    for fence in fences(page, "sh"):
        for line in re.sub(r"\\\n\s*", " ", fence.text).splitlines():
            found += _simple_commands(line)
    return found


def _simple_commands(line: str) -> list[list[str]]:
    words = shlex.shlex(line, posix=True, punctuation_chars=True)
    words.whitespace_split = True
    found: list[list[str]] = [[]]
    is_target = False
    for word in words:
        if word in ("&&", "||", "|", ";"):
            found.append([])
        elif word == ">":
            is_target = True
        elif is_target:
            is_target = False
        else:
            found[-1].append(word)
    return [command for command in found if command]


def links(page: str) -> list[str]:
    """Where the links in the prose of a page lead."""
    return re.findall(r"\]\(([^)\s]+)\)", prose(page))


def anchors(page: Path) -> set[str]:
    """The anchors that a reader's browser finds in a page: one for each heading."""
    headings = re.findall(
        r"^#+ (.+)$", _FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE
    )
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {heading.replace(" ", "-") for heading in plain}
