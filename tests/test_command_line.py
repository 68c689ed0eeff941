"""Words of the command line: examples that parse, mistakes that are understood, completion."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from data_prep import __main__ as data_prep
from tests.videos import write_numbered
from videogn import cli
from videogn.cli.shells import bash, fish, zsh
from videogn.cli.vocabulary import vocabulary

EXAMPLES = [
    words[words.index("run.py") + 1 :]
    for line in cli.EXAMPLES.splitlines()
    if "run.py" in (words := line.split("   ")[0].split()) and "COMMAND" not in words
]


def _interrupted(_: object) -> int:
    """In the place of a command that Ctrl-C ends."""
    raise KeyboardInterrupt


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What a wrong command line is answered with, below the usage."""
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert caught.value.code == 2
    usage, _, message = capsys.readouterr().err.partition("error: ")
    assert usage.startswith("usage: run.py")
    return message


def test_help_shows_ten_examples_and_each_parses() -> None:
    lines = [line for line in cli.EXAMPLES.splitlines() if line.startswith("  ")]
    assert len(lines) == 10
    assert len(EXAMPLES) == 9  # the other prepares data
    for words in EXAMPLES:
        if words[0].startswith("-"):
            words.insert(0, "train")
        cli.command_parser(words[0]).parse_intermixed_args(words[1:])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("trian --cfg demo", ["no command 'trian'", "did you mean train?"]),
        ("doktor", ["did you mean doctor?"]),
        ("xyzzy", ["no command 'xyzzy'", "they are train, test"]),
        ("demo.yaml", ["did you mean --cfg demo.yaml?"]),
        ("seed=1", ["'seed=1'", "--cfg NAME"]),
        ("test --ckpt x --otu y", ["--otu", "did you mean --out?"]),
        ("test --ckpy x", ["required: --ckpt", "--ckpy: did you mean --ckpt?"]),
        ("--cfgg=demo", ["did you mean --cfg?"]),
        ("fit --cfg demo --frames 8,x", ["--frames: 'x' is no whole number"]),
        ("completion fihs", ["invalid choice: 'fihs'", "did you mean fish?"]),
        ("test --ckpt=", ["--ckpt: '' names nothing"]),
        ("demo --seed -1", ["--seed: -1 is less than 0"]),
        ("report --thumbnails 99", ["--thumbnails: 99 is not from 0 to 24"]),
        ("export --ckpt x --format onnx --out y --size 8x", ["--size: '' is no whole number"]),
        ("export --ckpt x --format onnx --out .", ["--out: . is a folder; name the file"]),
        ("bench step --out run.py/x/y.json", ["--out: nothing can be written below", "run.py;"]),
        ("completion tcsh", ["'tcsh'", "'bash', 'zsh', 'fish'"]),
    ],
)
def test_a_misspelt_word_is_answered_with_the_right_one(
    line: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(capsys, *line.split())
    for word in words:
        assert word in message


def test_an_abbreviated_option_is_no_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean" not in refused(capsys, "test", "--ck")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            "--cfg demo --processes 2",
            "--processes 2 is for --dry-run; start so many with `torchrun",
        ),
        ("export --ckpt x.pt --format onnx --out x.pt", "--out x.pt is the checkpoint itself"),
        ("config --diff demo .", ". holds no config.yaml"),
        ("config --explain optim seed=1", "'seed=1' overrides nothing here"),
    ],
)
def test_what_would_do_something_else_is_refused(
    line: str,
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.pt").touch()
    assert cli.main(line.split()) == 2
    assert capsys.readouterr().err.startswith(f"error: {words}")


@pytest.mark.parametrize("module", [cli, data_prep])
def test_every_argument_of_every_command_has_a_line_of_help(module: ModuleType) -> None:
    for name in module.COMMANDS:
        for action in module.command_parser(name)._actions:
            assert action.help, f"{name} {action.option_strings or action.dest}"


def test_a_path_is_completed_with_files() -> None:
    takes = {c.name: {o.flags[0]: o.takes for o in c.options} for c in vocabulary().commands}
    assert (takes["test"]["--out"], takes["test"]["--ckpt"]) == ("file", "file")
    assert (takes["demo"]["--seed"], takes["demo"]["--debug"]) == ("word", "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_is_printed_that_its_shell_can_parse(
    shell: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cli.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert script == {"bash": bash, "zsh": zsh, "fish": fish}[shell](vocabulary())
    for word in [*cli.COMMANDS, "i3d_gn_64f.yaml", "model.norm.kind", "frozen_bn"]:
        assert word in script
    if shutil.which(shell):
        path = tmp_path / "script"
        path.write_text(script)
        subprocess.run([shell, "-n", str(path)], check=True)


CASES = {
    # what stands before the cursor -> what must be offered among it, what must not
    "videogn ": ("train test config completion", "demo.yaml"),
    "videogn pre": ("predict", "train"),
    "videogn train --": ("--cfg --debug", "--ckpt"),
    "videogn --cfg i3d_gn_64": ("i3d_gn_64f.yaml", "demo.yaml"),
    "videogn --cfg mi": ("mine.yaml", "mine.txt demo.yaml"),
    "videogn export --format ": ("onnx torch_export", "train"),
    "videogn completion ": ("bash zsh fish", "train"),
    "videogn test --ckpt x eval.c": ("eval.clip_rule= eval.crops=", "eval.num_clips="),
    "videogn --cfg demo model.norm.kind=": ("gn bn frozen_bn", "model.width="),
    "videogn --cfg demo model.norm.kind=fro": ("frozen_bn", "gn"),
    "videogn --cfg demo optim.nesterov=": ("true false", "none"),
    "python run.py weig": ("weights", "train"),
    "python3 ./run.py --cfg dem": ("demo.yaml", "small.yaml"),
    "python other.py --": ("", "--cfg"),
}


@pytest.mark.skipif(not shutil.which("bash"), reason="bash is not here")
@pytest.mark.parametrize("line", CASES)
def test_bash_offers_what_may_come_next(line: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").touch()
    (tmp_path / "mine.txt").touch()
    words = shlex.split(line.replace("=", " = ")) + [""] * line.endswith((" ", "="))
    program = f"""{bash(vocabulary())}
        COMP_WORDS=({shlex.join(words)}) COMP_CWORD={len(words) - 1}
        _videogn; printf '%s\\n' "${{COMPREPLY[@]}}" """
    done = subprocess.run(
        ["bash", "--norc", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    expected, excluded = (set(words.split()) for words in CASES[line])
    assert expected <= set(done.stdout.split())
    assert not excluded & set(done.stdout.split())


@pytest.mark.skipif(not shutil.which("fish"), reason="fish is not here")
@pytest.mark.parametrize("line", [line for line in CASES if line.startswith("videogn")])
def test_fish_offers_what_may_come_next(line: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").touch()
    (tmp_path / "script").write_text(fish(vocabulary()))
    done = subprocess.run(
        ["fish", "--no-config", "-c", f"source script; complete -C {shlex.quote(line)}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    offered = {
        found.split("\t")[0].rpartition("=")[2] or found.split("\t")[0]
        for found in done.stdout.splitlines()
    }
    expected, excluded = (set(words.split()) for words in CASES[line])
    assert {word for word in expected if not word.endswith("=")} <= offered
    assert not excluded & offered


@pytest.mark.parametrize(
    ("line", "goes_on"),
    [
        ("train --cfg demo", True),
        ("--cfg demo resume=never", False),
        ("test --ckpt x.pt", True),
        ("predict --ckpt x.pt a.mp4", False),
    ],
)
def test_only_a_command_that_goes_on_says_so_when_it_is_interrupted(
    line: str,
    goes_on: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = line.split()[0] if not line.startswith("-") else "train"
    monkeypatch.setattr(f"videogn.cli.{name}.run", _interrupted)
    assert cli.main(line.split()) == 130
    rest = "; the same command goes on from what is saved" if goes_on else ""
    assert capsys.readouterr().err == f"interrupted{rest}\n"


@pytest.mark.parametrize(("name", "goes_on"), [("verify", True), ("stats", False)])
def test_data_prep_goes_on_where_it_keeps_a_record(
    name: str,
    goes_on: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(f"data_prep.{name}.run", _interrupted)
    assert data_prep.main([name, "root"]) == 130
    rest = "; the same command goes on where it stopped" if goes_on else ""
    assert capsys.readouterr().err == f"interrupted{rest}\n"


def test_a_terminal_without_utf_8_gets_names_as_escapes(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    write_numbered(tmp_path / "videos" / "good.mp4", 4)
    (tmp_path / "videos" / "kl\u00e4sse.mp4").write_text("no video")
    root, videos = str(tmp_path / "root"), str(tmp_path / "videos")
    words = ["index", videos, "--out", root, "--label-from", "filename", "--dry-run"]
    done = subprocess.run(
        [sys.executable, "-m", "data_prep", *words],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "PYTHONIOENCODING": "ascii:strict"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"    kl\\xe4sse.mp4: " in done.stdout
