"""Opens every file of a folder, and some addresses, with all decoders; writes what came of each.

    python -m tests.faults.open_hostile FOLDER ADDRESS

`FOLDER/healthy.mp4` is read first, so that all libraries are loaded; opening `FOLDER/BEGIN` then
marks in a trace where the hostile files begin.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from videogn.data.decode import DECODERS, open_video
from videogn.errors import ConfigError, VideoDecodeError


def addresses(folder: Path, address: str) -> list[str]:
    """Paths that FFmpeg takes for addresses, or for instructions to read other files."""
    other = folder / "other.mp4"
    host = address.removeprefix("http://")
    return [
        f"{address}/a.mp4",
        f"cache:{address}/a.mp4",
        f"async:{address}/a.mp4",
        f"hls+{address}/a.m3u8",
        f"tcp://{host}",
        f"udp://{host}",
        f"rtmp://{host}/a",
        f"ftp://{host}/a.mp4",
        f"concat:{other}|{other}",
        f"subfile,,start,0,end,0,,:{other}",
        f"file:{other}",
        "data:video/mp4;base64,AAAA",
        "../outside.mp4",
        str(folder.parent / "outside.mp4"),
    ]


def outcome(path: str, folder: Path, decoder: str) -> str:
    """`refused`, `read`, or the decoder's absence."""
    try:
        with open_video(path, root=folder, decoder=decoder, timeout=10) as video:
            video.frames([0])
    except VideoDecodeError:
        return "refused"
    except ConfigError:
        return "not installed"
    return "read"


def main(folder: Path, address: str) -> None:
    """Writes {decoder: {path: outcome}} as json."""
    names = sorted(
        path.name for path in folder.iterdir() if path.name not in ("other.mp4", "BEGIN")
    )
    hostile = [str(folder / name) for name in names if name != "healthy.mp4"]
    # Joined to the video root too, as the paths of a manifest are.
    loose = addresses(folder, address)
    hostile += loose + [str(folder / path) for path in loose if not path.startswith("/")]
    found: dict[str, dict[str, str]] = {}
    for decoder in DECODERS:
        found[decoder] = {"healthy": outcome(str(folder / "healthy.mp4"), folder, decoder)}
    (folder / "BEGIN").read_bytes()
    for decoder in DECODERS:
        found[decoder] |= {path: outcome(path, folder, decoder) for path in hostile}
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
