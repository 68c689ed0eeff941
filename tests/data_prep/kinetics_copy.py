"""A miniature of the official copy of Kinetics-400, with the faults that the real one has."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

CLASSES = {"train": "skiing (not slalom or crosscountry)", "val": "abseiling", "test": ""}
PER_ARCHIVE = 4


def video_id(split: str, number: int) -> str:
    """11 characters; the first of each split begins with the dash that makes it look an option."""
    return f"{'-' if number == 0 else '_'}{split[:2]}{number:08d}"


def file_name(split: str, number: int) -> str:
    return f"{video_id(split, number)}_000010_000020.mp4"


def tar_of(files: Mapping[str, bytes]) -> bytes:
    """A plain tar; names begin with `./` as those of the official ones do."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        folder = tarfile.TarInfo("./")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, data in files.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def videos(split: str, part: int, clip: bytes) -> dict[str, bytes]:
    """The files of one archive, told apart by a number behind the end of the video."""
    numbers = range(part * PER_ARCHIVE, (part + 1) * PER_ARCHIVE)
    return {file_name(split, number): clip + bytes([0, 0, 0, 8]) + b"free" for number in numbers}


def write_annotations(folder: Path, counts: Mapping[str, int]) -> None:
    """Six columns; one of those of test has no label, as it was published first."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in counts.items():
        header = ["label", "youtube_id", "time_start", "time_end", "split", "is_cc"]
        label = f'"{CLASSES[split]}"'
        lines = [
            [label, video_id(split, number), "10", "20", split, "0"] for number in range(count)
        ]
        if split == "test":
            header, lines = header[1:], [fields[1:] for fields in lines]
        rows = [",".join(fields) for fields in (header, *lines)]
        (folder / f"{split}.csv").write_text("\n".join(rows) + "\n")


def write_copy(source: Path, clip: bytes) -> None:
    """train: part_0, part_1 which is a plain tar, part_2; val, test: part_0; one replacement.

    The annotations have one train row and one val row without a file; one file has no row.
    """
    for split, parts in (("train", 3), ("val", 1), ("test", 1)):
        (source / split).mkdir(parents=True)
        for part in range(parts):
            files = videos(split, part, clip)
            if (split, part) == ("val", 0):
                files["unknown_vid_000000_000010.mp4"] = clip
            content = tar_of(files)
            plain = (split, part) == ("train", 1)
            packed = content if plain else gzip.compress(content, 1)
            (source / split / f"part_{part}.tar.gz").write_bytes(packed)
    write_annotations(source / "annotations", {"train": 13, "val": 5, "test": 4})
    folder = source / "replacement"
    folder.mkdir()
    # Cut at other times than the file that it replaces.
    files = {f"replacement_for_corrupted_k400/{video_id('train', 5)}_000011_000021.mp4": clip * 2}
    archive = folder / "replacement_for_corrupted_k400.tgz"
    archive.write_bytes(gzip.compress(tar_of(files)))


def truncate(archive: Path) -> None:
    content = archive.read_bytes()
    archive.write_bytes(content[: len(content) * 2 // 3])


def digests(folder: Path) -> dict[str, str]:
    """Every file below `folder` by its content, without the journal, which holds times."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".jsonl"
    }
