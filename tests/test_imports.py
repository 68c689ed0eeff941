"""Imports run one way: the parts know nothing of the config, and it knows nothing of torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "videogn"
TOP = [
    *("build", "experiment", "testing", "demo", "predict", "cli", "report", "runs", "bench"),
    *("fit", "live_bytes", "doctor", "plan", "study", "analysis"),
    *("convert", "describe", "export", "resume", "monitoring", "advice", "bad_samples"),
    *("restarts", "trained", "restoring", "beginning", "saving", "telling"),
]

# part -> what it must not import, at the top of a file or inside a function
FORBIDDEN = {
    "engine": ["config", "model", "data", "weights", *TOP],
    "model": ["config", "data", "engine", "weights", *TOP],
    "ops": ["config", "model", "data", "engine", "weights", *TOP],
    "data": ["config", "model", "engine", "weights", *TOP],
    "weights": ["config", "data", "engine", *TOP],
    "config": ["model", "data", "engine", "weights", *TOP],
    "nearest": ["config", "model", "data", "engine", "weights", *TOP],
    "errors": ["config", "model", "data", "engine", "weights", *TOP],
}
MAY_IMPORT_CONFIG = {
    *("build", "experiment", "testing", "demo", "predict", "cli", "report", "runs"),
    *("fit", "bench", "plan", "study", "analysis"),
    *("convert", "export", "resume", "monitoring", "advice", "trained"),
    *("restoring", "beginning", "saving", "telling"),
}


def part_of(path: Path) -> str:
    """The part a file belongs to: "engine" for videogn/engine/train.py, "build" for build.py."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The modules that a file imports anywhere, as dotted names."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno}: a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def parts_imported(path: Path) -> set[str]:
    """The parts of videogn that a file imports."""
    return {name.split(".")[1] for name in imported(path) if name.startswith("videogn.")}


def files(part: str) -> list[Path]:
    found = [path for path in PACKAGE.rglob("*.py") if part_of(path) == part]
    assert found, f"there is no part {part}"
    return found


@pytest.mark.parametrize("part", FORBIDDEN)
def test_a_part_imports_nothing_from_above_or_beside_it(part: str) -> None:
    for path in files(part):
        assert not parts_imported(path) & set(FORBIDDEN[part]), path.relative_to(ROOT)


def test_only_the_composition_root_and_its_users_see_the_config() -> None:
    seen = {part_of(path) for path in PACKAGE.rglob("*.py") if "config" in parts_imported(path)}
    assert seen - {"config"} <= MAY_IMPORT_CONFIG


def test_nothing_imports_the_command_line() -> None:
    seen = {part_of(path) for path in PACKAGE.rglob("*.py") if "cli" in parts_imported(path)}
    assert seen == {"cli"}


def test_the_walk_sees_imports_of_every_form(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text("import videogn.data.order\ndef f():\n    from videogn import build, engine\n")
    assert parts_imported(path) == {"data", "build", "engine"}


def test_a_wrong_word_on_the_command_line_does_not_wait_for_torch() -> None:
    code = "import sys, videogn, videogn.config, videogn.cli; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
