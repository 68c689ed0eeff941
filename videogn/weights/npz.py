"""Reads numpy's npz archives of plain numbers: no pickles, no bombs."""

from __future__ import annotations

import math
import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from videogn.errors import WeightsError

_FREE_BYTES = 2**26  # an archive may always unpack to 64 MiB ...
_MAX_RATIO = 16  # ... and beyond it to this many times its own size; weights shrink by a tenth
_READERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def load_npz(path: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of an npz archive by name, in C order and native byte order.

    Raises:
        WeightsError: damaged, a bomb, or something in it is not an array of plain numbers.
        OSError: it cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _require_bounded(path, sum(member.file_size for member in members))
            return {
                member.filename.removesuffix(".npy"): _read_member(archive, member)
                for member in members
            }
    except _RefusedError as error:
        raise WeightsError(f"{path}: refused, the archive holds {error}") from None
    except (
        zipfile.BadZipFile, zlib.error, ValueError, EOFError, NotImplementedError, RuntimeError,
        OverflowError, SyntaxError, TypeError,
    ) as error:  # fmt: skip
        # of the archive, its compression, numpy's header; RuntimeError: encrypted
        reason = " ".join(str(error).split())[:100]  # numpy's have three lines
        raise WeightsError(f"{path}: not an npz of arrays, or damaged ({reason})") from error


class _RefusedError(Exception):
    """What the archive holds that weights do not need."""


def _require_bounded(path: Path, unpacked: int) -> None:
    if unpacked > max(_FREE_BYTES, _MAX_RATIO * path.stat().st_size):
        raise _RefusedError(f"{unpacked} bytes once unpacked, far more than weights would")


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """Returns one array; its size is checked against the archive's before anything is allocated."""
    name = member.filename[:80]
    if not member.filename.endswith(".npy"):
        raise _RefusedError(f"{name!r}, which is no array")
    with archive.open(member) as stream:
        version = npy.read_magic(stream)
        if version not in _READERS:
            raise _RefusedError(f"an array of the unknown format {version}, {name!r}")
        shape, fortran, dtype = _READERS[version](stream)
        if dtype.kind not in "fiub" or dtype.itemsize > 8:
            raise _RefusedError(f"an array of {str(dtype)[:40]}, no plain number, {name!r}")
        num_bytes = math.prod(shape) * dtype.itemsize
        if min(shape, default=0) < 0 or num_bytes > member.file_size:
            raise _RefusedError(f"an array of shape {shape} in {member.file_size} bytes, {name!r}")
        data = stream.read()
    if len(data) != num_bytes:
        raise _RefusedError(f"an array of shape {shape} with {len(data)} bytes, {name!r}")
    array = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
    return np.array(array, dtype=dtype.newbyteorder("="), order="C")
