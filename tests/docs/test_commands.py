"""No command of the documents is stale: each is parsed by the parser of what it calls.

Options and choices are argparse's to refuse; configs are loaded with the overrides that stand
behind them, so that a key or value that is no more is refused too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser

from data_prep import __main__ as data_prep
from tests.docs.pages import NAMES, ROOT, code_spans, commands, prose
from videogn import cli
from videogn.config import find_config, load_config
from videogn.config.keys import keys
from videogn.errors import VideognError

OTHERS = {"pip", "pytest", "ruff", "pyright", "conda", "source", "."}  # parsed by nobody here
SECTIONS = ("model", "data", "optim", "eval", "wandb")


def check(words: Sequence[str]) -> None:
    """Raises for a command that its program would refuse, or that calls nothing of ours."""
    while "=" in words[0]:  # PYTHONPATH=.
        words = words[1:]
    match list(words):
        case ["python", "run.py", *rest]:
            check_run(rest)
        case ["python", "-m", "data_prep", *rest]:
            data_prep._parse(rest)
        case ["python", "-m", module, *_]:
            assert (ROOT / module.replace(".", "/")).exists()
        case ["python3", "-m", "venv", _]:
            pass
        case ["python", script, *_]:
            assert (ROOT / script).is_file()
        case ["torchrun", *options]:
            parsed = get_args_parser().parse_args(options)
            assert parsed.training_script == "run.py"
            check_run(parsed.training_script_args)
        case ["sbatch", *options]:
            (at,) = (place for place, word in enumerate(options) if word.endswith(".sh"))
            assert (ROOT / options[at]).is_file()
            check_run(options[at + 1 :])
        case ["wandb", "sweep", file]:
            assert (ROOT / file).is_file()
        case [program, *_]:
            assert program in OTHERS, f"{program} is not known"


def check_run(words: Sequence[str]) -> None:
    """Parses what stands behind run.py, and loads the configuration that it names."""
    words = ["train", *words] if words[0].startswith("-") else list(words)
    name = words[0]
    assert name in cli.COMMANDS, f"there is no command {name}"
    args = cli.command_parser(name).parse_intermixed_args(words[1:])
    if name == "study":
        find_config(args.cfg)
        return
    if name == "config" and args.explain:
        assert args.explain in keys() or args.explain in SECTIONS
    stated = [*vars(args).get("overrides", ()), *vars(args).get("videos", ())]
    stated += vars(args).get("more", ())
    load_config(vars(args).get("cfg") or "i3d_gn_64f.yaml", [w for w in stated if "=" in w])


def complaints(check: Callable[[Sequence[str]], None], lines: list[list[str]]) -> list[str]:
    """What is wrong with each command that is refused."""
    found = []
    for words in lines:
        try:
            check(words)
        except (AssertionError, VideognError, SystemExit) as error:
            found.append(f"{' '.join(words)}: {type(error).__name__} {error}")
    return found


@pytest.mark.parametrize("page", NAMES)
def test_each_command_is_understood_by_what_it_calls(page: str) -> None:
    assert complaints(check, commands(page)) == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("python run.py trian --cfg demo.yaml", "no command trian"),
        ("python run.py --cfg no_such.yaml", "ConfigError"),
        ("python run.py --cfg demo.yaml optim.epoch=2", "epoch"),
        ("python run.py --cfg demo.yaml model.norm.kind=groups", "groups"),
        ("python run.py predict --ckpt best.pt clip.mp4 --top 3 --vidoe x", "SystemExit"),
        ("python run.py config --explain optim.epoch", "AssertionError"),
        ("python -m data_prep index v --out d --vall 0.2", "SystemExit"),
        ("torchrun --nproc_per_nodes 8 run.py --cfg demo.yaml", "SystemExit"),
        ("torchrun --nproc_per_node 8 run.py --cfg demo.yaml a.b=c", "a.b"),
        ("sbatch configs/cluster/slurm.sh --cgf demo.yaml", "SystemExit"),
        ("python benchmarks/none.py", "AssertionError"),
        ("curl example.org", "curl is not known"),
    ],
)
def test_a_stale_command_would_be_noticed(line: str, said: str) -> None:
    (complaint,) = complaints(check, [line.split()])
    assert said in complaint


def test_the_documents_name_every_command() -> None:
    text = "".join((ROOT / page).read_text(encoding="utf-8") for page in NAMES)
    named = set(re.findall(r"run\.py ([a-z]+)", text))
    assert set(cli.COMMANDS) <= named
    assert set(data_prep.COMMANDS) <= set(re.findall(r"data_prep ([a-z0-9]+)", text))


@pytest.mark.parametrize("page", NAMES)
def test_commands_and_keys_in_the_text_exist(page: str) -> None:
    for span in code_spans(page):
        for name in re.findall(r"run\.py ([a-z]\w*)", span):
            assert name in cli.COMMANDS, span
        for name in re.findall(r"\bdata_prep ([a-z]\w*)", span):
            assert name in data_prep.COMMANDS, span
        for key in re.findall(rf"^((?:{'|'.join(SECTIONS)})\.[a-z_.]+)(?:=|$)", span):
            if not key.endswith(("_", ".")) and not is_theirs(page, key):  # eval.* is all of them
                assert any(path == key or path.startswith(f"{key}.") for path in keys()), span


def is_theirs(page: str, key: str) -> bool:
    """Whether a key stands in the first column of a table of other programs' keys."""
    if not page.endswith("coming-from.md"):
        return False
    firsts = [line.split("|")[1] for line in prose(page).splitlines() if line.count("|") > 2]
    return any(f"`{key}" in first for first in firsts)


@pytest.mark.parametrize("page", NAMES)
def test_overrides_in_the_text_are_accepted(page: str) -> None:
    for span in code_spans(page):
        words = span.split()
        if all(word.partition("=")[0] in keys() and "=" in word for word in words):
            load_config("i3d_gn_64f.yaml", words)


@pytest.mark.parametrize("page", NAMES)
def test_options_in_the_text_exist(page: str) -> None:
    for span in code_spans(page):
        words = span.removeprefix("python ").split()
        if words[:1] == ["run.py"] and words[1:] and words[1] in cli.COMMANDS:
            known = cli.command_parser(words[1])._option_string_actions
            for option in re.findall(r"--[a-z-]+", span):
                assert option in known, span


def test_every_shipped_experiment_is_named() -> None:
    text = "".join(Path(ROOT / page).read_text(encoding="utf-8") for page in NAMES)
    for path in (ROOT / "configs").glob("*.yaml"):
        if path.name != "demo.yaml":  # the demo's own
            assert path.name in text, path.name
