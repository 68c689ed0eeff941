"""What is read out of a study's record: rates chosen, means and spreads, tables."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.study.tiny import reached, tiny_study
from videogn.study.curves import curves_csv, curves_of
from videogn.study.figures import draw_accuracy, draw_curves
from videogn.study.plan import Trial
from videogn.study.records import Done, as_record, choose_rates, from_record, spread
from videogn.study.tables import part_table, study_tables, table_csv

GN, BN = Trial("gn", 8, 4, 1, 0.1), Trial("bn", 8, 4, 1, 0.2)


def chosen(study_folder: Path, gn: list[float | None], bn: list[float | None]) -> dict[str, float]:
    study = tiny_study(study_folder)
    done = []
    for trial, val in zip(study.rates, [*gn, *bn], strict=False):
        numbers = {} if val is None else {"val": val}
        done.append(reached(trial, tested=False, **numbers))
    return choose_rates(done, study)


def test_the_rate_with_the_best_validation_is_chosen_per_norm(tmp_path: Path) -> None:
    assert chosen(tmp_path, [70.0, 60.0], [50.0, 60.0]) == {"gn": 0.1, "bn": 0.2}


def test_equal_rates_give_the_lower_and_diverged_ones_do_not_count(tmp_path: Path) -> None:
    assert chosen(tmp_path, [60.0, 60.0], [None, 15.0]) == {"gn": 0.1, "bn": 0.2}
    assert chosen(tmp_path, [60.0, 60.0], [None, None]) == {"gn": 0.1}


def test_a_norm_waits_for_all_of_its_rates(tmp_path: Path) -> None:
    assert chosen(tmp_path, [60.0, 70.0], [50.0]) == {"gn": 0.2}


def test_rates_are_not_chosen_by_trials_that_are_none_of_theirs(tmp_path: Path) -> None:
    study = tiny_study(tmp_path)
    done = [reached(trial, tested=False, val=50.0) for trial in study.rates]
    done.append(reached(replace(study.rates[1], seed=9), val=99.0, test=99.0))
    assert choose_rates(done, study) == {"gn": 0.1, "bn": 0.1}


def test_a_line_says_all_of_a_trial() -> None:
    done = reached(replace(BN, sub_batch=2, order="video"), test=50.0)
    assert from_record(json.loads(json.dumps(as_record(done)))) == done


def test_a_spread_is_mean_and_sample_deviation() -> None:
    group = [reached(replace(GN, seed=seed), test=value) for seed, value in ((1, 60.0), (2, 63.0))]
    assert str(spread(group, "test")) == "61.5 ± 2.1"
    assert str(spread(group[:1], "test")) == "60.0"
    broken = Done(replace(GN, seed=3), {"tested": True, "curve": [], "diverged": "the loss"})
    assert str(spread([*group, broken], "test")) == "61.5 ± 2.1 (1 diverged)"
    assert str(spread([broken], "test")) == "diverged"
    assert str(spread([], "test")) == ""


def some_done() -> list[Done]:
    """Two seeds each, GN 4 and 6 points above BN."""
    return [
        reached(replace(GN, seed=1), test=64.0, val=1.0, test_running=60.0),
        reached(replace(GN, seed=2), test=70.0, val=1.0, test_running=60.0),
        reached(replace(BN, seed=1), test=60.0, val=1.0, test_running=50.0),
        reached(replace(BN, seed=2), test=64.0, val=1.0, test_running=52.0),
    ]


def test_norms_stand_side_by_side_with_the_difference_of_equal_seeds() -> None:
    lines = part_table(some_done()).splitlines()
    assert lines[0] == "| frames | batch | GN | BN | GN - BN | BN, running averages | seeds |"
    assert lines[2:] == ["| 4 | 8 | 67.0 ± 4.2 | 62.0 ± 2.8 | 5.0 ± 1.4 | 51.0 ± 1.4 | 2 |"]


def test_a_row_tells_what_is_not_as_usual() -> None:
    done = [reached(replace(BN, light=0.25, sub_batch=2), test=60.0, test_running=58.0)]
    lines = part_table(done).splitlines()
    assert lines[0] == "| frames | batch | light | sub batch | BN | BN, running averages | seeds |"
    assert lines[2] == "| 4 | 8 | 0.25 | 2 | 60.0 | 58.0 | 1 |"


def test_rates_that_a_part_compares_have_rows_of_their_own() -> None:
    done = [reached(replace(GN, rate=rate), test=test) for rate, test in ((0.1, 60.0), (0.2, 50.0))]
    lines = part_table(done).splitlines()
    assert lines[0] == "| frames | batch | rate | GN | seeds |"
    assert lines[2:] == ["| 4 | 8 | 0.1 | 60.0 | 1 |", "| 4 | 8 | 0.2 | 50.0 | 1 |"]


def test_tables_show_the_rates_and_only_trials_at_the_chosen_one(tmp_path: Path) -> None:
    study = tiny_study(tmp_path)
    vals = {("gn", 0.1): 70.0, ("gn", 0.2): 60.0, ("bn", 0.1): 50.0, ("bn", 0.2): 60.0}
    done = [reached(t, tested=False, val=vals[t.norm, t.rate or 0]) for t in study.rates]
    done += some_done()
    done.append(reached(replace(BN, rate=0.1, batch=4), test=99.0))  # once chosen, no more
    text = study_tables(done, study)
    assert "| GN | **70.0** | 60.0 |" in text
    assert "| BN | 50.0 | **60.0** |" in text
    assert "| 4 | 8 | 67.0 ± 4.2 | 62.0 ± 2.8 | 5.0 ± 1.4 | 51.0 ± 1.4 | 2 |" in text
    assert "99" not in text
    rows = list(csv.DictReader(io.StringIO(table_csv(done, study))))
    assert [(row["norm"], row["test"], row["test_running"]) for row in rows] == [
        ("gn", "67.0", "60.0"),
        ("bn", "62.0", "51.0"),
    ]


def test_curves_are_means_over_the_seeds_that_did_not_diverge() -> None:
    broken = Done(replace(GN, seed=3), {"tested": True, "curve": [], "diverged": "the loss"})
    odd = reached(replace(GN, light=0.5), test=1.0)
    curves = curves_of([*some_done(), broken, odd])
    assert [(curve.setting.norm, curve.setting.batch) for curve in curves] == [("gn", 8), ("bn", 8)]
    rows = curves_csv(curves).splitlines()
    assert rows[1] == "gn,8,4,0.5,60.0,0.0,2"
    assert rows[2].startswith("gn,8,4,1.0,41.5,0.707")


def test_pictures_show_every_line_once() -> None:
    curves = draw_curves(curves_of(some_done()))
    accuracy = draw_accuracy(some_done())
    assert curves is not None
    assert accuracy is not None
    assert [ax.get_title(loc="left") for ax in curves.axes] == ["BN, 4 frames", "GN, 4 frames"]
    labels = [ax.get_legend_handles_labels()[1] for ax in curves.axes]
    assert labels == [["8 clips (2 seeds)"]] * 2
    assert accuracy.axes[0].get_legend_handles_labels()[1] == ["GN", "BN"]


def test_no_line_is_left_out_for_want_of_a_dash() -> None:
    done = [reached(replace(GN, batch=batch), test=60.0) for batch in (1, 2, 4, 8, 16)]
    figure = draw_curves(curves_of(done))
    assert figure is not None
    assert [len(ax.lines) for ax in figure.axes] == [0, 5]


@pytest.mark.parametrize("draw", [draw_accuracy, lambda done: draw_curves(curves_of(done))])
def test_without_trials_there_is_no_picture(draw) -> None:
    assert draw([]) is None
