"""Opens files of torch.save without running them.

`torch.load(weights_only=True)` calls only functions on a list of its own. That list is longer than
weights need (`bytearray(10**11)` is on it), so the names in a file are looked at first: which also
tells what a refused file holds.
"""

from __future__ import annotations

import mmap
import pickletools
import re
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch.torch_version import TorchVersion

from videogn.errors import WeightsError

_BEFORE_1_6 = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # its magic number, pickled
# CVE-2025-32434 (code from weights_only before 2.6), CVE-2026-24747 (memory before 2.10)
_FIRST_SAFE_TORCH = TorchVersion("2.10")
_MAX_TUPLE_LEVELS = 16  # each may double the time to hash one
_MAX_PICKLES = 5  # of a file before 1.6: magic, protocol, system, content, storages

# torch has no error of its own for a damaged file: each of these was met in flipping its bytes
_TORCH_LOAD_ERRORS = (
    UnpicklingError, RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError,
    AssertionError, struct.error, MemoryError, OverflowError,
)  # fmt: skip

# Tensors, and what the states of optimizers and schedules are made of
_NAMES = re.compile(
    r"torch\._utils _rebuild_(tensor(_v[23])?|parameter)|torch \w+Storage|"
    r"torch\.storage (Typed|Untyped)Storage|torch (Size|device|b?float\w*|u?int\d+|bool|half|long)|"
    r"collections (OrderedDict|Counter)|_codecs encode|(builtins|__builtin__) set"
)


def is_torch_file(path: Path, start: bytes) -> bool:
    """Returns whether a file that begins with `start` is one of torch.save, new or old."""
    if start.startswith(_BEFORE_1_6):
        return True
    if not start.startswith(b"PK"):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            # a damaged one counts too: its error then is torch's
            return not all(name.endswith(".npy") for name in archive.namelist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return True


def load_torch_file(path: Path) -> Mapping[Any, Any]:
    """Returns the dict in a file of torch.save, on the CPU.

    Raises:
        WeightsError: damaged, or it holds more than a dict of tensors and plain values.
        OSError: it cannot be read.
    """
    if TorchVersion(torch.__version__) < _FIRST_SAFE_TORCH:
        raise WeightsError(
            f"{path}: not opened, because torch {torch.__version__} can be made to run what is in "
            "such a file; install torch 2.10 or newer"
        )
    try:
        names = _foreign_names(path)
        if names:
            raise WeightsError(_what_to_do(path, names))
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (*_TORCH_LOAD_ERRORS, zipfile.BadZipFile) as error:
        raise WeightsError(
            f"{path}: damaged, or holds more than tensors and plain values, and is then not opened "
            "because it could run code"
        ) from error
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path}: holds a {type(content).__name__} instead of a dict of tensors")
    return content


def _what_to_do(path: Path, names: list[str]) -> str:
    shown = ", ".join(name.replace(" ", ".")[:80] for name in names[:3])
    return (
        f"{path}: damaged, or holds more than tensors and plain values ({shown}), and is not "
        "opened because it could run code; if you trust it, keep its weights alone with "
        "torch.save({'state_dict': torch.load(IN, weights_only=False)['state_dict']}, OUT)"
    )


def _foreign_names(path: Path) -> list[str]:
    """Returns the functions and classes that a file asks for and weights do not need."""
    found: dict[str, None] = {}
    tuples = _SharedTuples()
    for opcode, argument in _opcodes(path):
        name = str(argument)
        match opcode:
            case "GLOBAL" if not _NAMES.fullmatch(name):
                found[name] = None
            case "STACK_GLOBAL" | "INST" | "OBJ" | "EXT1" | "EXT2" | "EXT4":
                found[f"the opcode {opcode}"] = None
        if tuples.nested_in_each_other(opcode, argument):
            return ["tuples of tuples of tuples"]
    return list(found)


class _SharedTuples:
    """Follows tuples that are made of earlier ones: 60 levels of pairs have 2**60 leaves.

    Such a tuple as a key takes for ever to hash. A tuple's level is one more than the highest that
    was fetched from the memo since the last one was stored there.
    """

    def __init__(self) -> None:
        self.levels: dict[object, int] = {}  # in the memo, by index
        self.fetched = 0
        self.made = False

    def nested_in_each_other(self, opcode: str, argument: object) -> bool:
        """Returns whether the tuples so far are nested deeper than weights need."""
        level = 0
        if opcode.endswith("GET"):
            self.fetched = max(self.fetched, self.levels.get(argument, 0))
        elif opcode.endswith("PUT") and self.made:
            level = self.levels[argument] = self.fetched + 1
            self.fetched = 0
        self.made = opcode.startswith(("TUPLE", "EMPTY_TUPLE"))
        return level > _MAX_TUPLE_LEVELS


def _opcodes(path: Path) -> Iterator[tuple[str, object]]:
    """Yields the name and argument of every opcode of every pickle that torch would run.

    Raises:
        ValueError: not a pickle.
        zipfile.BadZipFile: not an archive.
        RuntimeError: an archive that unpacks to more than itself.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            # torch.save never compresses; what is said to be larger than the file is a bomb
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise RuntimeError("a compressed archive")
            if sum(member.file_size for member in members) > path.stat().st_size:
                raise RuntimeError("an archive larger than its file")
            for member in members:
                if member.filename.endswith(".pkl"):
                    for opcode, argument, _ in pickletools.genops(archive.read(member)):
                        yield opcode.name, argument
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        for _ in range(_MAX_PICKLES):  # the storages follow
            for opcode, argument, _ in pickletools.genops(view):  # type: ignore[arg-type]
                yield opcode.name, argument
