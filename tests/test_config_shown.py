"""A configuration explains itself: where values come from, what keys mean, what editors know."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.checkpoints import SMALL, write_checkpoint
from videogn import cli
from videogn.config import CONFIG_DIR, load_config, load_settings
from videogn.config.explain import explain, written
from videogn.config.keys import keys, sections
from videogn.config.schema import schema
from videogn.config.settings import takes_text
from videogn.config.strict_yaml import plain, read_mapping
from videogn.convert import convert
from videogn.engine import checkpoint
from videogn.errors import ConfigError
from videogn.runs import write_config

SHIPPED = sorted(CONFIG_DIR.glob("*.yaml"))


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> list[list[str]]:
    """The words of each line that `run.py config` prints."""
    assert cli.main(["config", *words]) == 0
    return [line.split() for line in capsys.readouterr().out.splitlines()]


def test_every_value_is_shown_with_its_place(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text((CONFIG_DIR / "demo.yaml").read_text())
    head, *rows = shown(capsys, "--cfg", str(path), "optim.epochs=3", "data.root=x")
    assert head == ["key", "value", "from"]
    assert [row[0] for row in rows] == list(keys())
    found = {row[0]: row[1:] for row in rows}
    assert found["optim.epochs"] == ["3.0", "override"]
    assert found["optim.ema"] == ["null", "default"]
    assert found["optim.milestones"] == ["[8.5,", "12.5]", f"{path}:55"]
    assert path.read_text().splitlines()[54].startswith("  milestones: ")


def test_a_checkpoint_is_shown_as_it_was_trained(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = write_checkpoint(tmp_path / "last.pt")
    found = {row[0]: row[1:] for row in shown(capsys, "--ckpt", str(path), "eval.crops=three")}
    assert found["model.arch"] == ["i3d_r14", str(path)]
    assert found["eval.crops"] == ["three", "override"]


def test_two_configurations_are_set_side_by_side(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "config.yaml").write_text(
        (CONFIG_DIR / "i3d_bn_32f.yaml").read_text().replace("num_workers: 8", "num_workers: 9")
    )
    head, *rows, note = shown(capsys, "--diff", "i3d_gn_32f", str(tmp_path))
    assert head == ["key", "i3d_gn_32f", str(tmp_path)]
    assert rows == [
        ["*", "name", "i3d_gn_32f", "i3d_bn_32f"],
        ["*", "model.init", "R-50-GN.pkl", "resnet50"],
        ["*", "model.norm.kind", "gn", "bn"],
        ["data.num_workers", "8", "9"],
    ]
    assert note[0] == "*"
    assert shown(capsys, "--diff", "demo", "demo.yaml") == [["no", "key", "differs"]]


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """The config of a run, of 12 classes, beside the checkpoint of it in both forms."""
    path = write_checkpoint(tmp_path / "best.pt", classes=[f"class {n}" for n in range(12)])
    convert(path, tmp_path / "best.safetensors")
    write_config(tmp_path, checkpoint.load(path)["config"])
    return tmp_path


@pytest.mark.parametrize("name", ["", "best.pt", "best.safetensors"])
def test_what_a_run_found_for_auto_is_the_same_experiment(
    name: str, run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(run_folder / name)
    head, *rows, star, tilde = shown(capsys, "--diff", run, "small.yaml", *SMALL)
    assert head == ["key", run, "small.yaml"]
    assert rows[0] == ["~", "model.num_classes", "12", "auto"]
    assert [row[:2] for row in rows[1:]] == [["~", "data.mean"], ["~", "data.std"]]
    assert (star[0], tilde[:3]) == ("*", ["~", "auto,", "resolved:"])
    assert shown(capsys, "--diff", "small", run, *SMALL)[1] == [*rows[0][:2], "auto", "12"]


def test_a_number_in_a_file_may_be_another_than_auto_becomes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.yaml"
    text = (CONFIG_DIR / "small.yaml").read_text()
    path.write_text(re.sub("  mean: auto", "  mean: [0.4, 0.4, 0.4]", text))
    _, row, note = shown(capsys, "--diff", "small", str(path))
    assert row == ["*", "data.mean", "auto", "[0.4,", "0.4,", "0.4]"]
    assert note[0] == "*"


def test_what_else_can_be_compared_is_said_of_a_name_that_is_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["config", "--diff", "demo", "nothere"]) == 2
    error = capsys.readouterr().err
    assert "config 'nothere' is neither a file nor one of configs/: demo.yaml, " in error
    assert error.endswith("; a run's folder or a checkpoint will do, too\n")


def test_a_converted_checkpoint_is_shown_as_the_one_it_was(
    run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run_folder / "best.safetensors"
    found = {row[0]: row[1:] for row in shown(capsys, "--ckpt", str(path))}
    assert found["model.num_classes"] == ["12", str(path)]


def test_a_key_is_explained_by_type_range_and_default() -> None:
    said = explain("optim.ema").splitlines()
    assert said[0].endswith(keys()["optim.ema"].doc)
    assert said[1].split(maxsplit=1) == ["type", "a finite number or null, > 0 and < 1"]
    assert said[2].split() == ["default", "null"]
    assert said[3].endswith("another experiment")
    assert explain("data.num_workers").endswith("may go on with a run")
    assert explain("data.root").splitlines()[2].endswith("(to be stated)")


@pytest.mark.parametrize("section", sections())
def test_a_section_is_explained_key_by_key(section: str) -> None:
    lines = explain(section).splitlines()[2:]
    inside = [key for key in keys() if not section or key.startswith(f"{section}.")]
    assert [line.split()[0] for line in lines] == inside


def test_what_is_not_there_cannot_be_explained() -> None:
    with pytest.raises(ConfigError, match=r"no key optm\.ema; did you mean optim\.ema\?"):
        explain("optm.ema")


@pytest.mark.parametrize("path", keys())
def test_every_key_has_one_line_of_meaning(path: str) -> None:
    doc = keys()[path].doc
    assert 3 <= len(doc) <= 90
    assert "\n" not in doc
    assert not doc.endswith(".")


def test_a_value_is_written_as_yaml_reads_it_again() -> None:
    for setting in load_settings("i3d_gn_64f").values():
        text = written(setting.value)
        assert isinstance(setting.value, list) or plain(text) == setting.value


def test_the_schema_beside_the_configs_is_that_of_the_dataclasses() -> None:
    """`python run.py config --schema > configs/schema.json` brings it up to date."""
    assert json.loads((CONFIG_DIR / "schema.json").read_text(encoding="utf-8")) == schema()


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_shipped_file_names_the_schema_and_obeys_it(path: Path) -> None:
    validator = pytest.importorskip("jsonschema").Draft7Validator(schema())
    values, _ = read_mapping(path, takes_text)
    assert list(validator.iter_errors(values)) == []
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first == "# yaml-language-server: $schema=schema.json"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("seed", True),
        ("optim.base_lr", "1e-3"),
        ("optim.base_lr", 0),
        ("optim.ema", 1),
        ("data.short_side", [256, 0]),
        ("data.mean", "grey"),
        ("model.norm.kind", "GN"),
        ("model.norm.knd", "gn"),
        ("data.root", None),
    ],
)
def test_an_editor_marks_what_loading_refuses(path: str, value: object) -> None:
    validator = pytest.importorskip("jsonschema").Draft7Validator(schema())
    values, _ = read_mapping(CONFIG_DIR / "demo.yaml", takes_text)
    *sections_above, name = path.split(".")
    inner = values
    for section in sections_above:
        inner = inner[section]
    inner[name] = value
    (error,) = validator.iter_errors(values)
    assert list(error.absolute_path)[: len(sections_above)] == sections_above


def test_the_schema_is_printed_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "--schema"]) == 0
    assert json.loads(capsys.readouterr().out) == schema()


def test_a_reader_that_leaves_early_is_no_error() -> None:
    """As `run.py config --schema | head -1` does."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, str(CONFIG_DIR.parent / "run.py"), "config", "--schema"],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_checkpoint_of_a_later_version_is_refused_by_its_key(tmp_path: Path) -> None:
    path = tmp_path / "later.yaml"
    text = (CONFIG_DIR / "demo.yaml").read_text()
    path.write_text(text.replace("seed: 0", "seed: 0\nseedling: 1"))
    with pytest.raises(ConfigError, match=r"later\.yaml:10: there is no key seedling"):
        load_config(path)
