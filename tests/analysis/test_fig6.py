"""Fig. 6 logged by whole runs: the records, and that training is the same with and without."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.test_experiment import BN, interrupt_at, last, make_root, records, words
from videogn import cli
from videogn.engine import checkpoint

FIG6 = "eval.percentiles_every_epochs=0.5"


def test_looking_at_features_changes_no_bit_of_a_run_and_is_made_up_for_after_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    root = make_root(tmp_path / "root", val=3)
    assert cli.main(words(root, BN, "run_dir=plain")) == 0
    with monkeypatch.context() as patch:
        interrupt_at(patch, 4)  # where an epoch ends: what is due then is broken off
        assert cli.main(words(root, BN, FIG6, "run_dir=looked")) == 130
    assert cli.main(words(root, BN, FIG6, "run_dir=looked")) == 0

    plain, looked = Path("plain"), Path("looked")
    for key in ("model", "optimizer", "metrics"):
        assert checkpoint.digest(last(plain)[key]) == checkpoint.digest(last(looked)[key]), key
    found = [r for r in records(looked) if r["split"] == "percentiles"]
    assert [(r["step"], r["epoch"]) for r in found] == [(0, 0.0), (2, 0.5), (4, 1.0), (6, 1.5)]
    assert [r for r in records(looked) if r["split"] != "percentiles"] == records(plain)
    for record in found:
        assert list(record["layers"])[:2] == ["norm1", "layer1.0.norm1"]
        assert len(record["layers"]) == 17
        for ends in record["layers"].values():
            assert ends["in"] == sorted(ends["in"])
            assert ends["out"] == sorted(ends["out"])
    assert found[0]["layers"] != found[1]["layers"]
