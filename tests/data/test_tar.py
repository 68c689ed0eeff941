"""Members of tar files: their places, the file object that reads them, and hostile tars."""

from __future__ import annotations

import gzip
import io
import os
import random
import sys
import tarfile
import time
from pathlib import Path
from typing import Literal

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.videos import decode_all, write_numbered
from videogn.data import tar as tar_module
from videogn.data.tar import Member, Place, find_member, list_members, split_member, walk_tar
from videogn.errors import VideoDecodeError


def regular(name: str, data: bytes, tar_format: Literal[0, 1, 2] = tarfile.USTAR_FORMAT) -> bytes:
    """A header of a regular file and its padded data."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    padding = -len(data) % tarfile.BLOCKSIZE
    return info.tobuf(tar_format) + data + bytes(padding)


def special(name: str, kind: bytes, *, link: str = "", size: int = 0) -> bytes:
    """A header alone, of a link, a device or whatever `kind` says."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info.tobuf(tarfile.GNU_FORMAT)


def write_tar(path: Path, *blocks: bytes, end: bytes = bytes(1024)) -> str:
    path.write_bytes(b"".join(blocks) + end)
    return str(path)


def read(tar: str, name: str) -> bytes:
    with Member(tar, *find_member(tar, name)) as member:
        return member.read()


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("a/b.tar::c.mp4", ("a/b.tar", "c.mp4")),
        ("a.tar::b/c::d.tar::e", ("a.tar", "b/c::d.tar::e")),
        ("A.TAR::x", ("A.TAR", "x")),
        ("a.tar.gz::x", ("a.tar.gz", "x")),
        ("a.tgz::x", ("a.tgz", "x")),
        ("a.tar::", ("a.tar", "")),
        ("a.tar", None),
        ("a.mp4::b", None),
        ("a.tar/b:c", None),
    ],
)
def test_a_path_is_split_at_the_end_of_the_name_of_a_tar(
    path: str, parts: tuple[str, str] | None
) -> None:
    assert split_member(path) == parts


@pytest.mark.parametrize(
    "tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
)
def test_every_format_of_tar_gives_the_very_bytes(
    tmp_path: Path, tar_format: Literal[0, 1, 2]
) -> None:
    names = ["a.mp4", "./b.mp4", "c d/é ü.mp4", "d" * 90 + "/" + "e" * 60 + ".mp4", "-x::y.mp4"]
    if tar_format != tarfile.USTAR_FORMAT:
        names.append("long/" * 60 + "f.mp4")
    contents = {name: os.urandom(number * 300) for number, name in enumerate(names)}
    blocks = [regular(name, data, tar_format) for name, data in contents.items()]
    tar = write_tar(tmp_path / "x.tar", *blocks)
    for name, data in contents.items():
        assert read(tar, name) == data
    assert [name for name, _ in list_members(tar)] == names
    with tarfile.open(tar) as reference:
        for info in reference:
            assert find_member(tar, info.name) == Place(info.offset_data, info.size)


def test_the_last_of_two_members_of_one_name_counts(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "x.tar", regular("a", b"1"), regular("b", b"2"), regular("a", b"3"))
    assert read(tar, "a") == b"3"
    assert [name for name, _ in list_members(tar)] == ["b", "a"]


@pytest.mark.parametrize(
    "block",
    [
        special("x", tarfile.SYMTYPE, link="/etc/passwd"),
        special("x", tarfile.LNKTYPE, link="../y"),
        special("x", tarfile.CHRTYPE),
        special("x", tarfile.BLKTYPE),
        special("x", tarfile.FIFOTYPE),
        special("x", tarfile.DIRTYPE),
        special("x", tarfile.GNUTYPE_SPARSE, size=0),
    ],
)
def test_only_regular_files_are_members(tmp_path: Path, block: bytes) -> None:
    tar = write_tar(tmp_path / "x.tar", regular("x", b"replaced"), block, regular("y", b"good"))
    assert read(tar, "y") == b"good"
    with pytest.raises(VideoDecodeError, match=r"x\.tar::x: the tar holds no such regular file"):
        find_member(tar, "x")


@pytest.mark.parametrize(
    "magic", [gzip.compress(b"x"), b"BZh9", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd"]
)
def test_a_compressed_tar_is_refused_with_advice(tmp_path: Path, magic: bytes) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(magic + bytes(2000))
    with pytest.raises(VideoDecodeError, match=r"x.tar::a: .* is compressed.*gunzip.*k400"):
        find_member(str(path), "a")


def test_what_is_no_tar_is_named_with_the_member(tmp_path: Path) -> None:
    for name, content in (("noise.tar", random.Random(0).randbytes(3000)), ("empty.tar", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(VideoDecodeError, match=f"{name}::a: the tar cannot be read: "):
            find_member(str(tmp_path / name), "a")
    os.mkfifo(tmp_path / "fifo.tar")
    for name, reason in (
        ("fifo.tar", "not a regular file"),
        ("missing.tar", "No such file"),
        ("nul\0.tar", "null byte"),
    ):
        with pytest.raises(VideoDecodeError, match=reason):
            find_member(str(tmp_path / name), "a")


def test_of_a_cut_tar_the_whole_members_are_read_and_the_others_explained(tmp_path: Path) -> None:
    blocks = [regular(name, name.encode() * 2000) for name in "abc"]
    whole = b"".join(blocks)
    for cut in range(1, len(whole)):
        if cut % 512 not in (0, 1, 511):
            continue
        path = tmp_path / f"{cut}.tar"
        path.write_bytes(whole[:cut])
        kept = [n for i, n in enumerate("abc") if cut >= i * len(blocks[0]) + 512 + 2000]
        for name in "abc":
            if name in kept:
                assert read(str(path), name) == name.encode() * 2000
                continue
            with pytest.raises(VideoDecodeError, match=r"cut short|unexpected end|damaged|cannot"):
                find_member(str(path), name)
        with pytest.raises((OSError, *tar_module.HEADER_ERRORS)):
            list_members(str(path))


def test_a_damaged_header_ends_the_index_with_the_reason(tmp_path: Path) -> None:
    blocks = [regular("a", b"1"), b"\x07" * 512, regular("b", b"2")]
    tar = write_tar(tmp_path / "x.tar", *blocks)
    assert read(tar, "a") == b"1"
    with pytest.raises(VideoDecodeError, match="the tar is damaged after member 1, at byte 1024"):
        find_member(tar, "b")


def negative_size(name: str) -> bytes:
    """A header whose size is -1024: a naive reader goes back to it for ever."""
    block = bytearray(special(name, tarfile.REGTYPE))
    block[124:136] = (256**12 - 1024).to_bytes(12, "big")
    total = 256 + sum(block[:148]) + sum(block[156:512])
    block[148:156] = f"{total:06o}\0 ".encode()
    return bytes(block)


HOSTILE = {
    "a size below zero": (negative_size("x"),),
    "a pax header of 8 GB": (special("x", tarfile.XHDTYPE, size=8 << 30), bytes(512)),
    "a long name of 8 GB": (special("x", tarfile.GNUTYPE_LONGNAME, size=8 << 30), bytes(512)),
    "long names of long names": tuple(
        special("x", tarfile.GNUTYPE_LONGNAME, size=1) + bytes(512) for _ in range(3000)
    ),
    "a pax size below zero": (
        special("x", tarfile.XHDTYPE, size=15) + b"15 size=-99999\n".ljust(512, b"\0"),
        regular("x", b""),
    ),
    "a size beyond the end": (special("x", tarfile.REGTYPE, size=10 << 30),),
}


@pytest.mark.parametrize("blocks", HOSTILE.values(), ids=HOSTILE)
def test_hostile_headers_end_in_an_error(tmp_path: Path, blocks: tuple[bytes, ...]) -> None:
    tar = write_tar(tmp_path / "x.tar", regular("good", b"1"), *blocks)
    start = time.process_time()
    assert read(tar, "good") == b"1"
    with pytest.raises(VideoDecodeError, match="the tar holds no such regular file \\("):
        find_member(tar, "x")
    assert time.process_time() - start < 2


def test_too_many_members_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_module, "MAX_MEMBERS", 10)
    tar = write_tar(tmp_path / "x.tar", *(regular(str(number), b"") for number in range(12)))
    with pytest.raises(VideoDecodeError, match="more than 10 members"):
        find_member(tar, "11")


@settings(max_examples=300, deadline=None)
@given(
    changes=st.lists(st.tuples(st.integers(0, 4095), st.integers(0, 255)), min_size=1, max_size=8)
)
def test_a_damaged_tar_gives_members_or_a_tar_error(changes: list[tuple[int, int]]) -> None:
    pax = tarfile.TarInfo("long/" * 40 + "x").tobuf(tarfile.PAX_FORMAT)
    content = bytearray(regular("a", b"1" * 600) + pax + regular("b", b"") + bytes(1024))
    for at, value in changes:
        content[at % len(content)] = value
    try:
        for member in walk_tar(io.BytesIO(content)):
            assert member.size >= 0
    except tar_module.HEADER_ERRORS:
        pass


def test_a_changed_tar_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tar = write_tar(tmp_path / "x.tar", regular("a", b"1"))
    assert read(tar, "a") == b"1"
    scans = []
    scan = tar_module._scan
    monkeypatch.setattr(tar_module, "_scan", lambda path: scans.append(path) or scan(path))
    assert read(tar, "a") == b"1"
    assert scans == []
    write_tar(tmp_path / "x.tar", regular("b", b"22"), regular("a", b"333"))
    assert read(tar, "a") == b"333"
    assert scans == [tar]


def test_the_indexes_kept_are_bounded_and_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tar_module, "_indexes", {})
    names = [f"{number:011d}_000010_000020.mp4" for number in range(1000)]
    tar = write_tar(tmp_path / "x.tar", *(regular(name, b"") for name in names))
    find_member(tar, names[0])
    index = tar_module._index_of(tar)
    assert index.nbytes * 260 < 30e6
    assert sum(map(sys.getsizeof, (index.names, index.ends, index.places))) <= index.nbytes
    monkeypatch.setattr(tar_module, "_MAX_CACHED", int(2.5 * index.nbytes))
    for number in range(4):
        (tmp_path / f"{number}.tar").write_bytes(Path(tar).read_bytes())
        find_member(str(tmp_path / f"{number}.tar"), names[7])
    assert list(tar_module._indexes) == [str(tmp_path / "2.tar"), str(tmp_path / "3.tar")]


@settings(max_examples=200, deadline=None)
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("read"), st.integers(-1, 90)),
            st.tuples(st.sampled_from(["set", "cur", "end"]), st.integers(-80, 80)),
        ),
        max_size=12,
    ),
    offset=st.integers(0, 60),
    size=st.integers(0, 60),
)
def test_a_member_reads_and_seeks_as_bytes_in_memory_do(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[str, int]],
    offset: int,
    size: int,
) -> None:
    path = tmp_path_factory.getbasetemp() / "numbers"
    path.write_bytes(bytes(range(121)))
    reference = io.BytesIO(bytes(range(121))[offset : offset + size])
    with Member(str(path), offset, size) as member:
        for action, value in steps:
            if action == "read":
                # BytesIO keeps a position behind its end, and reads nothing there: as files do.
                assert member.read(value) == reference.read(value)
                continue
            whence = ["set", "cur", "end"].index(action)
            base = (0, reference.tell(), len(reference.getvalue()))[whence]
            if base + value < 0:
                with pytest.raises(ValueError, match="cannot seek"):
                    member.seek(value, whence)
            else:
                assert member.seek(value, whence) == reference.seek(base + value)
            assert member.tell() == reference.tell()


def test_a_closed_member_frees_its_file_and_reads_no_more(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "x.tar", regular("a", b"1"))
    member = Member(tar, *find_member(tar, "a"))
    member.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(member._fd)
    member.close()
    for action in (member.read, member.tell, lambda: member.seek(0)):
        with pytest.raises(ValueError, match="closed"):
            action()


def test_a_video_in_a_tar_decodes_to_the_frames_of_the_file(tmp_path: Path) -> None:
    video = write_numbered(tmp_path / "v.mp4", 12, gop=4)
    tar = write_tar(tmp_path / "x.tar", regular("w", b"x" * 700), regular("v", video.read_bytes()))
    with Member(tar, *find_member(tar, "v")) as file, av.open(file, "r") as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert np.array_equal(np.stack(frames), decode_all(video))
