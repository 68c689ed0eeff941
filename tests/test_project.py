"""What the files around the code promise: one list of dependencies, two commands, public names."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import torch
import yaml
from torchvision.models._meta import _KINETICS400_CATEGORIES

import videogn
from videogn.data.manifest import kinetics400_classes

ROOT = Path(__file__).parent.parent


def test_conda_and_pip_users_get_the_same_dependencies() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    conda = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    listed = next(entry["pip"] for entry in conda["dependencies"] if isinstance(entry, dict))
    assert listed[-1] == "--editable ."
    assert [_plain(line) for line in listed[:-1]] == [_plain(d) for d in project["dependencies"]]


def _plain(requirement: str) -> str:
    return re.sub(r"\s+", "", requirement).replace("'", '"')


def test_the_readme_opens_with_two_set_up_commands() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    first, second = re.findall(r"```sh setup\n(.*?)```", readme, flags=re.DOTALL)[0].splitlines()
    assert first.endswith("pip install -e . && python run.py demo")
    assert second.endswith("pip install -e '.[dev]' && pytest")
    assert readme.index("```sh setup") < readme.index("##")


def test_the_shipped_classes_of_kinetics_are_torchvisions() -> None:
    assert list(kinetics400_classes()) == _KINETICS400_CATEGORIES


def test_the_library_is_what_its_docstring_says() -> None:
    model = videogn.create_model("i3d_r14", norm="ln", num_frames=2, crop_size=32, num_classes=3)
    assert model(torch.zeros(1, 3, 2, 32, 32)).shape == (1, 3)
    assert callable(videogn.load_weights)
    assert callable(videogn.load)
    assert callable(videogn.open_video)
    with pytest.raises(AttributeError, match="no attribute 'lodd'"):
        videogn.lodd  # noqa: B018
