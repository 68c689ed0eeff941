"""Where labelled videos are written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePath

from videogn.errors import ConfigError


def labelled_paths(out: Path, places: Mapping[str, PurePath]) -> dict[str, Path]:
    """Returns the file that each labelled video is written to; makes none.

    It is `out` itself for one video, when that is named like a file; else it lies below `out` as
    the video does below the folder that was given.

    Args:
        out: an mp4 file, or a folder.
        places: of each video's path, see `Found.places`.

    Raises:
        ConfigError: two would be one file, or one would be written over a video that is read.
    """
    if out.suffix and not out.is_dir():
        if out.suffix != ".mp4":
            raise ConfigError(f"--video {out}: wanted a file named *.mp4, or a folder")
        if len(places) > 1:
            raise ConfigError(f"--video {out} is one file for {len(places)} videos; give a folder")
        targets = dict.fromkeys(places, out)
    else:
        alike = Counter(_bare(place) for place in places.values())
        targets = {path: out / _name(place, alike) for path, place in places.items()}
        _refuse_collisions(targets)
    _refuse_sources(targets)
    return targets


def _name(place: PurePath, alike: Counter[PurePath]) -> str:
    """Returns the name without its suffix, unless another there differs by nothing else."""
    bare = _bare(place)
    return f"{bare if alike[bare] == 1 else place}.mp4"


def _bare(place: PurePath) -> PurePath:
    return place.parent / place.stem


def _refuse_collisions(targets: Mapping[str, Path]) -> None:
    taken: dict[Path, str] = {}
    for path, target in targets.items():
        other = taken.setdefault(target, path)
        if other != path:
            raise ConfigError(
                f"--video: {other} and {path} would both be written to {target}; give the folder "
                "that holds both, or draw them into two"
            )
    for path, target in targets.items():
        for folder in target.parents:  # a.avi beside a folder named a.mp4
            if folder in taken:
                raise ConfigError(
                    f"--video: {taken[folder]} would be written to {folder}, which has to be a "
                    f"folder for {path}; draw them into two folders"
                )


def _refuse_sources(targets: Mapping[str, Path]) -> None:
    sources = {_identity(path): path for path in targets}
    sources.pop(None, None)
    for path, target in targets.items():
        source = sources.get(_identity(target))
        if source is not None:
            own = "its own source" if source == path else f"{source}, which is read too"
            raise ConfigError(f"--video {target} would write over {own}; choose another")


def _identity(path: str | Path) -> tuple[int, int] | None:
    """Returns what is the same for all names of a file; None if it cannot be told."""
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
