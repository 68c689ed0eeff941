"""A study's file: grids, the values a trial puts into the recipe, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.study.tiny import SECTION, tiny_study, write_study
from videogn.config import CONFIG_DIR
from videogn.errors import ConfigError
from videogn.study.plan import Trial, read_study, trials_of

SHIPPED = sorted((CONFIG_DIR / "study").glob("*.yaml"))


def test_a_grid_is_all_combinations_one_seed_after_the_other() -> None:
    grid = {"norm": ["gn", "bn"], "batch": [8, 2], "frames": 4, "seed": [1, 2], "rate": 1}
    assert trials_of(grid, "x") == [
        Trial(norm, batch, 4, seed, rate=1.0)
        for seed in (1, 2)
        for norm in ("gn", "bn")
        for batch in (8, 2)
    ]


def test_a_trial_changes_the_recipe_where_it_says_so(tmp_path: Path) -> None:
    study = tiny_study(tmp_path)
    trial = Trial("brn", batch=4, frames=8, seed=7, rate=0.3)
    config = study.config(trial)
    assert (config.seed, config.data.num_frames, config.model.norm.kind) == (7, 8, "brn")
    assert (config.optim.clips_per_gpu, config.optim.base_lr) == (4, 0.3)
    assert config.model.norm.brn_warmup_steps == 4  # half an epoch: 16 clips
    assert study.config(Trial("bn", 8, 4, 0, sub_batch=2)).model.norm.sub_batch == 2


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_studies_compare_what_they_should(path: Path) -> None:
    study = read_study(path)
    tested = [trial for trials in study.parts.values() for trial in trials]
    assert all(trial.rate is None for trial in tested)  # chosen on validation, not by hand
    assert study.clips.seed not in {trial.seed for trial in tested}
    lengths = [part for name, part in study.parts.items() if name in ("main", "longer clips")]
    for of_part in lengths:
        assert {(trial.norm, trial.batch) for trial in of_part} == {
            (norm, batch) for norm in ("gn", "bn") for batch in (8, 4, 2)
        }
        assert len({trial.seed for trial in of_part}) >= 3
    assert len({trial.frames for trial in tested}) == len(lengths)
    assert len(lengths) == (1 if path.stem == "cpu_long" else 2)


def test_a_bare_name_is_looked_for_among_the_shipped() -> None:
    assert read_study("study/cpu.yaml") == read_study(CONFIG_DIR / "study" / "cpu.yaml")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clips": SECTION["clips"] | {"trian": 1}}, "study.clips: there is no key trian; known: "),
        ({"clips": {"train": 8}}, "study.clips does not state val"),
        ({"clips": SECTION["clips"] | {"val": 1.5}}, "study.clips.val is 1.5; it must be a whole"),
        ({"clips": SECTION["clips"] | {"train": 20}}, "train is 20, no multiple of batches of 8"),
        ({"parts": {"main": {"norm": "gn"}}}, "study.parts.main does not state batch"),
        ({"parts": {}}, "study.parts is {}; it must be a mapping"),
        ({"renorm_warmup_epochs": "x"}, "renorm_warmup_epochs is 'x'; it must be a finite number"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        tiny_study(tmp_path, **changes)
    assert message in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_every_tested_norm_needs_rates_to_choose_from(tmp_path: Path) -> None:
    grid = {"norm": "ln", "batch": 8, "frames": 4, "seed": 1}
    with pytest.raises(ConfigError, match=r"study\.rates has no trial of ln to choose a rate"):
        tiny_study(tmp_path, parts={"more": grid})
    assert tiny_study(tmp_path, parts={"more": grid | {"rate": 0.1}}).parts["more"][0].rate == 0.1


def test_what_rates_are_chosen_by_is_not_tested(tmp_path: Path) -> None:
    grid = {"norm": "gn", "batch": 8, "frames": 4, "seed": [1, 0]}
    with pytest.raises(ConfigError, match=r"study\.parts tests seed 0, which study\.rates chooses"):
        tiny_study(tmp_path, parts={"main": grid})


def test_a_trial_must_fit_the_recipe(tmp_path: Path) -> None:
    grid = {"norm": "bn", "batch": 8, "sub_batch": 3, "frames": 4, "seed": 1}
    with pytest.raises(ConfigError, match="sub_batch"):
        tiny_study(tmp_path, parts={"odd": grid})
    with pytest.raises(ConfigError, match="kind"):
        tiny_study(tmp_path, parts={"odd": grid | {"norm": "xn", "rate": 0.1}})


def test_another_config_is_no_study(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"demo\.yaml is no study: it needs a section `study`"):
        read_study("demo.yaml")
    with pytest.raises(ConfigError, match="is no study"):
        read_study(write_study(tmp_path, extra=1))
