"""A study's trials as tables: one a part, norms side by side as in Tables 2 and 8 of the paper."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace

from videogn.study.plan import Study, Trial
from videogn.study.records import Done, Spread, by_setting, choose_rates, spread, spread_of

CSV_HEADER = (
    *("part", "norm", "batch", "frames", "light", "sub_batch", "order", "standardize", "rate"),
    *("seeds", "diverged", "test", "test_sd", "test_running", "test_running_sd", "val", "val_sd"),
)


def study_tables(done: Sequence[Done], study: Study) -> str:
    """Returns all tables as markdown: rates on validation, then each part on the test clips."""
    sections = [_rates_table(done, study)]
    for name, found in in_parts(done, study).items():
        if found:
            sections.append(f"## {name}\n\n{part_table(found)}")
    return "\n\n".join(sections) + "\n"


def in_parts(done: Iterable[Done], study: Study) -> dict[str, list[Done]]:
    """Returns the tested trials of each part, at the rates chosen; one may be of several."""
    done = list(done)
    rates = choose_rates(done, study)
    by_trial = {each.trial: each for each in done}
    parts = {}
    for name, trials in study.parts.items():
        wanted = [replace(t, rate=t.rate or rates.get(t.norm)) for t in trials]
        parts[name] = [by_trial[trial] for trial in wanted if trial in by_trial]
    return parts


def part_table(done: Sequence[Done]) -> str:
    """Returns test accuracy, percent, mean ± sample standard deviation over seeds.

    A row for each setting, a column for each norm; the rates in rows of their own where a norm was
    tested at several. GN - BN is that of equal seeds, so of equal training clips. BN's statistics
    are measured anew before the test; beside it stands what the running averages of training gave.
    """
    norms = list(dict.fromkeys(each.trial.norm for each in done))
    rows: dict[Trial, dict[str, list[Done]]] = {}
    settings = by_setting(done)
    several = len({(of.norm, of.rate) for of in settings}) > len(norms)
    for setting, group in settings.items():
        row = replace(setting, norm="", rate=setting.rate if several else None)
        rows.setdefault(row, {})[setting.norm] = group
    keys = _telling(rows)
    paired, with_bn = {"gn", "bn"} <= set(norms), "bn" in norms
    header = [*(key.replace("_", " ") for key in keys), *(name_of(norm) for norm in norms)]
    header += ["GN - BN"] * paired + ["BN, running averages"] * with_bn + ["seeds"]
    lines = [_line(header), _line(["---:"] * len(header))]
    for setting, groups in rows.items():
        cells = [_word(asdict(setting)[key]) for key in keys]
        cells += [str(spread(groups.get(norm, []), "test")) for norm in norms]
        cells += [str(_difference(groups))] * paired
        cells += [str(spread(groups.get("bn", []), "test_running"))] * with_bn
        counts = sorted({len(group) for group in groups.values()})
        lines.append(_line([*cells, "-".join(map(str, counts))]))
    return "\n".join(lines)


def table_csv(done: Sequence[Done], study: Study) -> str:
    """Returns the parts as CSV, a line a setting, with unrounded means and deviations."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_HEADER)
    for name, found in in_parts(done, study).items():
        for setting, group in by_setting(found).items():
            values = asdict(setting) | {"part": name, "seeds": len(group)}
            for key in ("test", "test_running", "val"):
                one = spread(group, key)
                values |= {key: one.mean, f"{key}_sd": one.deviation, "diverged": one.diverged}
            writer.writerow([values[column] for column in CSV_HEADER])
    return text.getvalue()


def name_of(norm: str) -> str:
    """Returns a kind of norm as a reader knows it."""
    return {"brn": "Batch Renorm", "frozen_bn": "frozen BN"}.get(norm, norm.upper())


def _rates_table(done: Sequence[Done], study: Study) -> str:
    """Returns validation accuracy by norm and rate; the chosen one in bold."""
    chosen = choose_rates(done, study)
    rates = sorted({trial.rate for trial in study.rates if trial.rate is not None})
    lines = [
        "## rates\n",
        f"Validation accuracy, percent, by the rate for {study.recipe['optim']['base_batch']} "
        "clips; the one in bold is used.\n",
        _line(["norm", *(f"{rate:g}" for rate in rates)]),
        _line(["---:"] * (len(rates) + 1)),
    ]
    wanted = set(study.rates)
    for norm in dict.fromkeys(trial.norm for trial in study.rates):
        cells = [name_of(norm)]
        for rate in rates:
            of_rate = [
                each
                for each in done
                if each.trial in wanted and (each.trial.norm, each.trial.rate) == (norm, rate)
            ]
            text = str(spread(of_rate, "val"))
            cells.append(f"**{text}**" if chosen.get(norm) == rate else text)
        lines.append(_line(cells))
    return "\n".join(lines)


def _telling(rows: Mapping[Trial, object]) -> list[str]:
    """Returns the fields in which rows differ or are not as usual, batch and frames always."""
    usual = asdict(Trial("", 0, 0, 0))
    return [
        key
        for key in ("frames", "batch", "rate", "light", "sub_batch", "order", "standardize")
        if key in ("frames", "batch") or any(asdict(s)[key] != usual[key] for s in rows)
    ]


def _difference(groups: Mapping[str, Sequence[Done]]) -> Spread:
    """Returns GN - BN over the seeds that both have."""
    gn, bn = (
        {
            each.trial.seed: each.result["test"]
            for each in groups.get(norm, [])
            if "test" in each.result
        }
        for norm in ("gn", "bn")
    )
    return spread_of([gn[seed] - bn[seed] for seed in sorted(gn.keys() & bn.keys())])


def _word(value: object) -> str:
    return "" if value is None else str(value)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
