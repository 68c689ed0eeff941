"""Wrong configurations: each must be refused in one sentence that names the key and what helps."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from videogn import build
from videogn.config import CONFIG_DIR, Config, load_config
from videogn.errors import ConfigError, DataError

LIMIT = 2.0  # seconds within which a wrong configuration must be refused
BASE = (CONFIG_DIR / "i3d_gn_64f.yaml").read_text(encoding="utf-8")


@dataclass(frozen=True)
class ConfigFault:
    """A configuration, and what must come of it.

    Attributes:
        group: the row of the table that it belongs to.
        name: what is wrong: the override itself, or the mistake in a file.
        content: of the file; `BASE` where the mistake is in an override.
        overrides: as on the command line.
        words: what the error must contain; none where it must read as `BASE` does.
        data: files of a data root, for what shows only there.
    """

    group: str
    name: str
    words: tuple[str, ...]
    content: bytes = BASE.encode()
    overrides: tuple[str, ...] = ()
    data: Mapping[str, str] | None = None


def config_faults() -> list[ConfigFault]:
    """Returns every fault of the rows C1 to C6."""
    found = [
        ConfigFault(group, override, words, overrides=(override,))
        for group, overrides in OVERRIDES.items()
        for override, words in overrides.items()
    ]
    return [*found, *_files(), *_data()]


def problem_of(fault: ConfigFault, folder: Path) -> str:
    """Returns what went otherwise than it must with `fault` in a new `folder`, "" if nothing."""
    folder.mkdir(parents=True)
    path = folder / "mine.yaml"
    path.write_bytes(fault.content)
    began = time.process_time()
    try:
        config = load_config(path, fault.overrides)
        if fault.data is not None:
            _read_data(config, fault.data, folder / "root")
    except (ConfigError, DataError) as error:
        return _of_message(fault, str(error), path) or _of_time(time.process_time() - began)
    if fault.words:
        return "was read"
    return "" if config == load_config("i3d_gn_64f") else "was read as something else"


def _of_message(fault: ConfigFault, message: str, path: Path) -> str:
    named = [] if fault.overrides or fault.data is not None else [str(path)]
    lacks = [word for word in [*named, *fault.words] if word not in message]
    if not fault.words or lacks or "\n" in message or len(message) > 1000:
        return f"refused with {message[:300]!r}, which lacks {lacks}"
    return ""


def _of_time(seconds: float) -> str:
    return f"refused after {seconds:.1f} s of CPU" if seconds > LIMIT else ""


def _read_data(config: Config, files: Mapping[str, str], root: Path) -> None:
    """Reads a data root as a training does before it builds the network."""
    for name, text in files.items():
        root.mkdir(exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    config.data.root = str(root)
    manifest = build.build_manifest(config, "train")
    build.require_a_batch(config, len(manifest), world=1)


# row of the table -> override -> words of its message
OVERRIDES: dict[str, dict[str, tuple[str, ...]]] = {
    "C1 unknown keys": {
        "model.norm.knd=bn": ("no key model.norm.knd", "did you mean model.norm.kind?"),
        "model.nrom.kind=bn": ("no key model.nrom", "did you mean model.norm?"),
        "optim.base_rl=1": ("no key optim.base_rl", "did you mean optim.base_lr?"),
        "modle.width=8": ("no key modle", "did you mean model"),
        "optim.crop_size=8": ("no key optim.crop_size", "did you mean data.crop_size?"),
        "sede=1": ("no key sede", "did you mean seed?"),
        "a.b.c=1": ("no key a", "--explain"),
        "seed.x=1": ("seed={'x': 1}", "a whole number"),
        "model.norm.kind": ("'model.norm.kind'", "dotted.key=value"),
        "=3": ("'=3'", "dotted.key=value"),
        "--seed=3": ("'--seed=3'", "dotted.key=value"),
        "model..norm=1": ("no key model.", "did you mean model.norm?"),
    },
    "C2 case and look-alikes": {
        "SEED=1": ("no key SEED", "did you mean seed?"),
        "model.Norm.kind=bn": ("no key model.Norm", "did you mean model.norm?"),
        "optim.b\u0430se_lr=1": ("CYRILLIC SMALL LETTER A", "did you mean optim.base_lr?"),
        "\uff4eame=x": ("FULLWIDTH LATIN SMALL LETTER N", "did you mean name?"),
        "seed\u200b=1": ("ZERO WIDTH SPACE", "did you mean seed?"),
        "model.norm.kind=GN": ("model.norm.kind='GN'", "one of 'gn', 'bn'"),
        "model.norm.kind=g\u0578": ("model.norm.kind=", "ARMENIAN SMALL LETTER VO"),
    },
    "C3 types and ranges": {
        "data.num_frames=abc": ("data.num_frames='abc'", "a whole number"),
        "data.num_frames=1.5": ("data.num_frames=1.5", "a whole number"),
        "data.num_frames=64.0": ("data.num_frames=64.0", "a whole number"),
        "data.num_frames=010": ("data.num_frames='010'", "a whole number"),
        "data.num_frames=1_000": ("data.num_frames='1_000'", "a whole number"),
        "data.num_frames=1:30": ("data.num_frames='1:30'", "a whole number"),
        "optim.epochs=long": ("optim.epochs='long'", "a finite number"),
        "optim.epochs=null": ("optim.epochs=null", "a finite number"),
        "optim.base_lr='1e-3'": ("optim.base_lr='1e-3'", "a finite number", "without quotes"),
        "optim.base_lr=true": ("optim.base_lr=true", "a finite number"),
        "seed=true": ("seed=true", "a whole number"),
        "deterministic=maybe": ("deterministic='maybe'", "true or false"),
        "deterministic=1": ("deterministic=1", "true or false"),
        "deterministic=no": ("deterministic='no'", "true or false"),
        "data.short_side=256": ("data.short_side=256", "a list"),
        "data.short_side=[a,b]": ("data.short_side=['a', 'b']", "each a whole number"),
        "data.crop_size=[224]": ("data.crop_size=[224]", "a whole number"),
        "data.root=null": ("data.root=null", "text"),
        "data.root=[a]": ("data.root=['a']", "text"),
        "model.num_classes=1.5": ("model.num_classes=1.5", "a whole number or 'auto'"),
        "model.num_classes=ten": ("model.num_classes='ten'", "'auto'"),
        "model.norm.kind=gbn": ("model.norm.kind='gbn'", "'gn', 'bn', 'ln', 'in'"),
        "model.arch=r50": ("model.arch='r50'", "i3d_r50"),
        "eval.crops=five": ("eval.crops='five'", "three"),
        "data.decoder=opencv": ("data.decoder='opencv'", "'pyav', 'decord', 'torchcodec'"),
        "device=gpu": ("device='gpu'", "cuda"),
        "model=3": ("model=3", "a section of keys"),
        "data=[1]": ("data=[1]", "a section of keys"),
        "model.norm=gn": ("model.norm='gn'", "a section of keys"),
        "optim=null": ("optim=null", "a section of keys"),
        "data.short_side=[256": ("'data.short_side=[256'", "cannot be read"),
        "data.root=${nowhere}": ("data.root='${nowhere}'", "without ${...}"),
        "data.root=???": ("data.root='???'", "states none"),
        "optim.base_lr=.nan": ("optim.base_lr=nan", "finite"),
        "optim.base_lr=.inf": ("optim.base_lr=inf", "finite"),
        "optim.base_lr=1e999": ("optim.base_lr=inf", "finite"),
        "data.std=[.nan,1,1]": ("data.std=[nan, 1, 1]", "finite"),
        "optim.milestones=[.nan]": ("optim.milestones=[nan]", "finite"),
        "optim.base_lr=-1": ("optim.base_lr=-1.0", "> 0"),
        "optim.weight_decay=-1e-4": ("optim.weight_decay=-0.0001", ">= 0"),
        "optim.clip_grad=0": ("optim.clip_grad=0.0", "> 0"),
        "optim.ema=1": ("optim.ema=1.0", "> 0 and < 1"),
        "optim.max_steps=0": ("optim.max_steps=0", ">= 1"),
        "data.num_frames=0": ("data.num_frames=0", ">= 1"),
        "data.clips_per_decode=0": ("data.clips_per_decode=0", ">= 1"),
        "data.timeout=0": ("data.timeout=0.0", "> 0"),
        "data.num_workers=-1": ("data.num_workers=-1", ">= 0"),
        "data.flip=2": ("data.flip=2.0", ">= 0 and <= 1"),
        "data.mean=grey": ("data.mean='grey'", "'auto' or a list"),
        "data.mean=[0.4,0.4]": ("data.mean=[0.4, 0.4]", "three numbers"),
        "data.mean=[123.675,116.28,103.53]": ("data.mean=[123.675", "each >= 0 and <= 1"),
        "data.std=[0,1,1]": ("data.std=[0.0, 1.0, 1.0]", "each > 0"),
        "seed=-1": ("seed=-1", ">= 0"),
        f"seed={2**63}": (f"seed={2**63}", "< 9223372036854775808"),
        f"seed={'9' * 9999}": ("seed='999", "a whole number"),
        "rank_timeout=0": ("rank_timeout=0.0", "> 0"),
        "wandb.tags=x": ("wandb.tags='x'", "a list"),
        "wandb.tags=[[a]]": ("wandb.tags=[['a']]", "each text"),
        "eval.percentiles_every_epochs=-1": ("eval.percentiles_every_epochs=-1.0", ">= 0"),
        "name=../elsewhere": ("name='../elsewhere'", "without slashes"),
        "name=''": ("name=''", "a name"),
    },
    "C4 groups": {
        "model.norm.num_groups=48": ("model.norm.num_groups=48", "divisor of model.width=64"),
        "model.norm.num_groups=0": ("model.norm.num_groups=0", ">= 1"),
        "model.norm.channels_per_group=7": ("model.norm.channels_per_group=7", "model.width=64"),
        "model.norm.channels_per_group=0": ("model.norm.channels_per_group=0", ">= 1"),
        "model.width=40": ("model.norm.num_groups=32", "divisor of model.width=40"),
        "model.norm.sub_batch=2": ("model.norm.sub_batch=2", "null with kind=gn"),
    },
    "C5 values that do not fit": {
        "data.crop_size=257": ("data.short_side=[256, 320]", "data.crop_size=257"),
        "eval.short_side=223": ("eval.short_side=223", "data.crop_size=224"),
        "data.short_side=[320,256]": ("data.short_side=[320, 256]", "from <= to"),
        "data.short_side=[256]": ("data.short_side=[256]", "two numbers"),
        "data.short_side=[]": ("data.short_side=[]", "two numbers"),
        "data.clips_per_decode=3": ("data.clips_per_decode=3", "optim.clips_per_gpu=4"),
        "optim.clips_per_gpu=0": ("optim.clips_per_gpu=0", ">= 1"),
        "model.stem_pool_padding=2": ("model.stem_pool_padding=2", "<= 1"),
        "model.num_classes=0": ("model.num_classes=0", ">= 1"),
        "optim.milestones=[81.8,40.9]": ("optim.milestones=[81.8, 40.9]", "increasing"),
        "optim.milestones=[-3,40.9]": ("optim.milestones=[-3.0, 40.9]", "> 0"),
        "optim.momentum=0": ("optim.momentum=0.0", "optim.nesterov=false"),
    },
}


def _changed(old: str, new: str) -> bytes:
    assert old in BASE
    return BASE.replace(old, new, 1).encode()


def _files() -> Iterator[ConfigFault]:
    def fault(name: str, content: bytes, *words: str) -> ConfigFault:
        return ConfigFault("C6 files", name, words, content)

    bomb = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in pairwise("abcde"))
    yield fault("empty", b"", "holds no configuration")
    yield fault("only a comment", b"# nothing\n", "holds no configuration")
    yield fault("a list on top", b"- a\n- b\n", "must be a mapping")
    yield fault("one number", b"5\n", "must be a mapping")
    yield fault("tabs", _changed("  arch:", "\tarch:"), "mine.yaml:17", "not valid yaml", "\\t")
    yield fault("a key twice", BASE.encode() + b"seed: 3\n", "mine.yaml:82", "seed", "line 10")
    twice = BASE.encode() + b"model:\n  width: 3\n"
    yield fault("a section twice", twice, "mine.yaml:82", "model", "line 16")
    tag = _changed("seed: 0", 'seed: !!python/object/apply:os.system ["true"]')
    yield fault("a python tag", tag, "mine.yaml:10", "python/object/apply:os.system")
    yield fault("a tag", _changed("seed: 0", "seed: !!str 0"), "mine.yaml:10", "is a tag")
    yield fault("an alias bomb", bomb.encode(), "mine.yaml:1", "&a", "references")
    yield fault("a cycle", b"model: &m\n  norm: *m\n", "mine.yaml:1", "&m", "references")
    yield fault("merged keys", b"a: &a {x: 1}\nb: {<<: *a}\n", "references")
    yield fault("two documents", BASE.encode() + b"---\nseed: 3\n", "mine.yaml:83", "document")
    yield fault("deep", b"[" * 100_000, "mine.yaml:1", "deeper than")
    yield fault("huge", b"#" * 2_000_000, "2000000 bytes")
    yield fault("a list for a key", b"? [a, b]\n: 1\n", "where a key belongs")
    yield fault("NUL", b"a: \0", "mine.yaml:1", "not valid yaml", "0x0")
    yield fault("an unclosed quote", b"name: 'x\nseed: 1\n", "not valid yaml")
    yield fault("two keys in a line", b"name: x: y\n", "mine.yaml:1", "not valid yaml")
    yield fault("UTF-16", BASE.encode("utf-16"), "not UTF-8")
    yield fault(
        "Latin-1",
        _changed("name: i3d_gn_64f", "name: \xe9").decode().encode("latin-1"),
        "not UTF-8",
    )
    yield fault("byte order mark", BASE.encode("utf-8-sig"))
    yield fault("CRLF", BASE.replace("\n", "\r\n").encode())
    yield fault("no last newline", BASE.rstrip().encode())
    yield fault("a name missing", _changed("name: i3d_gn_64f", ""), "does not state name")
    yield fault(
        "keys missing",
        _changed("  num_frames: 64", "").replace(b"  epochs: 109.1", b""),
        "does not state data.num_frames, optim.epochs",
    )
    wrong = _changed("  crops:", "  crop:")
    yield fault("a misspelt key", wrong, "mine.yaml:70", "eval.crop;", "mean eval.crops?")
    yield fault("a misspelt section", _changed("optim:", "optm:"), "optm", "did you mean optim?")
    yield fault("a dotted key", b"optim.base_lr: 1\n", "mine.yaml:1", "optim.base_lr")
    yield fault("a wrong indent", _changed("  arch:", " arch:"), "not valid yaml")
    yield fault("an empty section", b"name: x\nmodel:\n", "mine.yaml:2: model=null", "section")
    yield fault("a value for a section", b"name: x\nmodel: 3\n", "mine.yaml:2: model=3", "section")
    yield fault(
        "a value for an inner one", b"name: x\nmodel:\n  norm: gn\n", "mine.yaml:3: model.norm='gn'"
    )
    yield fault("a section for a key", b"seed:\n  x: 1\n", "mine.yaml:1: seed={'x': 1}")
    rate = _changed("base_lr: 0.01 ", "base_lr: '1e-3' ")
    yield fault("a number as text", rate, "mine.yaml:54: optim.base_lr='1e-3'", "without quotes")
    yield fault(
        "a rate below zero", _changed("base_lr: 0.01 ", "base_lr: -1 "), "optim.base_lr=-1.0"
    )
    yield fault(
        "yes",
        _changed("deterministic: false", "deterministic: yes"),
        "mine.yaml:11",
        "true or false",
    )
    yield fault("HTML", b"<!DOCTYPE html>\n<html><title>404</title></html>", "must be a mapping")
    yield fault("bytes", bytes(range(128, 256)), "not UTF-8")


def _data() -> Iterator[ConfigFault]:
    classes = {"classes.txt": "run\nwalk\n"}
    rows = "path,label\na.mp4,run\nb.mp4,walk\n"
    group = "C5 data"
    yield ConfigFault(group, "no data root", ("no such data root", "data_prep"), data={})
    yield ConfigFault(group, "no list", ("train.csv",), data=classes)
    yield ConfigFault(
        group,
        "other classes",
        ("model.num_classes=400", "2 classes"),
        overrides=("model.num_classes=400",),
        data=classes | {"train.csv": rows},
    )
    words = ("optim.clips_per_gpu=4", "4 clips", "2 videos")
    yield ConfigFault(group, "a batch of more than all", words, data=classes | {"train.csv": rows})
