"""The strict reader: whatever the bytes, plain values or one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from videogn.config import load_config, to_dict
from videogn.config.strict_yaml import plain, read_mapping, read_value
from videogn.errors import ConfigError
from videogn.runs import write_config


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("1", 1),
        ("-12", -12),
        ("+3", 3),
        ("0", 0),
        ("1e-4", 1e-4),  # text to PyYAML
        ("1.", 1.0),
        (".5E3", 500.0),
        ("-.inf", float("-inf")),
        ("true", True),
        ("~", None),
        ("", None),
    ],
)
def test_numbers_and_the_words_of_yaml_are_values(word: str, value: object) -> None:
    assert plain(word) == value
    assert type(plain(word)) is type(value)


@pytest.mark.parametrize(
    "word",
    ["010", "0x10", "1_000", "1:30", "yes", "no", "on", "2024-01-01", "1e", ".", "-", "e5", "inf"],
)
def test_what_other_readers_guess_at_is_text(word: str) -> None:
    """PyYAML makes 8, 16, 1000, 90, True, False, True and a date of the first eight."""
    assert plain(word) == word


_TEXT = st.text(st.characters(exclude_categories=["C"]), max_size=12)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | _TEXT
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@given(_VALUES)
@settings(max_examples=80, deadline=None)
def test_what_json_writes_is_read_as_it_was(value: Any) -> None:
    assert read_value(json.dumps(value, ensure_ascii=False)) == value


def refusal(read: Callable[[], object]) -> str:
    """The error of what was refused, "" for what was read."""
    try:
        read()
    except ConfigError as error:
        return str(error)
    return ""


@given(st.text("ab:-?[]{},#&*!|>%@'\"\\ \n\tUx0<~.\0\ufeff\x85", max_size=40))
@settings(max_examples=300, deadline=None)
def test_any_text_is_a_value_or_one_sentence(text: str) -> None:
    assert "\n" not in refusal(lambda: read_value(text))


@given(st.binary(max_size=60))
@settings(max_examples=60, deadline=None)
def test_any_bytes_are_a_mapping_or_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.mktemp("any") / "mine.yaml"
    path.write_bytes(data)
    said = refusal(lambda: read_mapping(path, lambda _: False))
    assert not said or said.startswith(str(path))


@pytest.mark.parametrize("text", ['"\\U00110000"', '"\\xZZ"', "%YAML 99.1\n--- a", "%TAG ! x"])
def test_escapes_and_directives_that_mean_nothing_are_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        read_value(text)


@pytest.mark.parametrize("name", ["0123", "no", "1e3", "true", "null", "2024-01-01", "a: b", "ü"])
def test_a_run_whose_name_looks_like_a_value_is_read_again(name: str, tmp_path: Path) -> None:
    config = load_config("demo", [f'name="{name}"', f"wandb.tags=['{name}', b]"])
    assert (config.name, config.wandb.tags) == (name, [name, "b"])
    write_config(tmp_path, to_dict(config))
    assert load_config(tmp_path / "config.yaml") == config
