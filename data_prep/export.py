"""A data root -> the lists that another project reads; the videos stay where they are."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.roots import SPLITS
from videogn.cli.arguments import place
from videogn.data.manifest import Manifest, read_manifest, write_text
from videogn.data.tables import line_of
from videogn.data.tar import split_member
from videogn.errors import DataError


@dataclass(frozen=True)
class Format:
    """The files that a project reads.

    Attributes:
        list_name: of the list of a split, with `{split}`.
        class_file: of the class names.
        class_text: the class names -> its content.
        hint: the settings for lists in `{lists}` of videos under `{videos}`.
        takes_comma: whether its lists may have a comma between path and label.
        needs_test: whether the project tests on a list of its own; that of val serves.
    """

    list_name: str
    class_file: str
    class_text: Callable[[Sequence[str]], str]
    hint: str
    takes_comma: bool
    needs_test: bool


def _as_json(classes: Sequence[str]) -> str:
    return json.dumps({name: number for number, name in enumerate(classes)}, indent=1) + "\n"


def _as_lines(classes: Sequence[str]) -> str:
    return "".join(f"{name}\n" for name in classes)


FORMATS: Mapping[str, Format] = {
    "pyslowfast": Format(
        "{split}.csv",
        "class_names.json",
        _as_json,
        "DATA.PATH_TO_DATA_DIR {lists} DATA.PATH_PREFIX '{videos}'",
        takes_comma=True,
        needs_test=True,
    ),
    "mmaction2": Format(
        "{split}_list_videos.txt",
        "label_map.txt",
        _as_lines,
        "ann_file='{lists}/train_list_videos.txt', data_prefix=dict(video='{videos}')",
        takes_comma=False,
        needs_test=False,
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    add = parser.add_argument
    add("root", metavar="ROOT", type=place, help="the data root")
    add("--format", choices=sorted(FORMATS), required=True, help="whose lists to write")
    add("--out", metavar="DIR", type=place, required=True, help="the folder to write them to")
    add("--absolute", action="store_true", help="write absolute paths, not relative ones")
    add("--comma", action="store_true", help="separate by a comma, so that paths may hold blanks "
        "(pyslowfast)")  # fmt: skip


def run(arguments: argparse.Namespace) -> None:
    """Writes the lists, all or none, and prints the settings that find them."""
    if arguments.comma and not FORMATS[arguments.format].takes_comma:
        raise DataError(f"--comma: {arguments.format} separates by blanks; leave the option out")
    files = export_lists(
        arguments.root,
        arguments.out,
        FORMATS[arguments.format],
        separator="," if arguments.comma else " ",
        absolute=arguments.absolute,
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        write_text(arguments.out / name, text)
        print(f"{arguments.out / name}: {text.count(chr(10))} lines")
    videos = "" if arguments.absolute else read_manifest(arguments.root, "train").videos
    hint = FORMATS[arguments.format].hint.format(lists=arguments.out.resolve(), videos=videos)
    print(f"settings: {hint}{' DATA.PATH_LABEL_SEPARATOR ,' if arguments.comma else ''}")


def export_lists(
    root: Path, out: Path, form: Format, *, separator: str, absolute: bool
) -> dict[str, str]:
    """The texts of the lists, by file name: `path label` with the class id as label.

    Raises DataError for a path that the lists cannot hold, for videos inside archives, and for an
    `out` that is a data root itself, whose train.csv would be replaced.
    """
    if (out / "classes.txt").exists():
        raise DataError(f"{out}: is a data root, and its lists would be replaced; choose another")
    files: dict[str, str] = {}
    splits = [split for split in SPLITS if split == "train" or (root / f"{split}.csv").is_file()]
    for split in splits:
        manifest = read_manifest(root, split)
        files[form.list_name.format(split=split)] = _lines(
            manifest, form, separator, absolute=absolute
        )
        files[form.class_file] = form.class_text(manifest.classes)
    if form.needs_test and "test" not in splits and "val" in splits:
        files[form.list_name.format(split="test")] = files[form.list_name.format(split="val")]
    return files


def _lines(manifest: Manifest, form: Format, separator: str, *, absolute: bool) -> str:
    lines: list[str] = []
    for row, (path, label) in enumerate(zip(manifest.paths, manifest.labels.tolist(), strict=True)):
        if split_member(path):
            raise DataError(
                f"{_place(manifest, row)}: {path!r} lies in an archive, which no other project "
                "reads; unpack the archives and index the videos again"
            )
        written = str(manifest.videos / path) if absolute else path
        blank = separator == " " and any(letter.isspace() for letter in written)
        if blank or separator in written or len(written.splitlines()) != 1:
            what = "a blank" if blank else "a separator"
            one_line = len(written.splitlines()) == 1
            comma = blank and form.takes_comma and one_line and "," not in written
            remedy = "rename it, or give --comma" if comma else "rename it and index again"
            raise DataError(
                f"{_place(manifest, row)}: {written!r} holds {what}, which the lists cannot hold; "
                f"{remedy}"
            )
        lines.append(f"{written}{separator}{label}\n")
    return "".join(lines)


def _place(manifest: Manifest, row: int) -> str:
    return f"{manifest.name}:{line_of(Path(manifest.name), row)}"
