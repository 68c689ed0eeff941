"""Reads the pickles of numbers that Caffe2 and Detectron wrote, and runs nothing that they say.

A pickle is a program, and `pickle.load` a machine that may import and call anything. This is
another machine, for the small part of the language that a dict of arrays needs: it keeps a file's
arrays as plain descriptions until the end, and the only functions a file can name are the ones in
`_GLOBALS`, all of them ours.
"""

from __future__ import annotations

import codecs
import math
import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from types import FunctionType
from typing import Any, NoReturn

import numpy as np

from videogn.errors import WeightsError

MAX_FILE_BYTES = 2**31  # 6 times a ResNet-101 with its momentum
_MAX_OPCODES = 1_000_000  # 40 times the same; each can turn one byte into a dict of 64
_WRAPPERS = ("blobs", "model")
_OPCODES = {opcode.code.encode("latin1"): opcode for opcode in pickletools.opcodes}
_DTYPE = re.compile(r"[<>|=]?[fiub][1248]")  # no "O": an object array holds arbitrary objects


def load_numeric_pickle(path: str | Path) -> dict[str, np.ndarray]:
    """Returns the arrays of a pickled dict; see `read_numeric_pickle`."""
    return read_numeric_pickle(path)[0]


def read_numeric_pickle(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Returns the arrays and the texts of a pickled dict: native byte order, C order.

    The arrays may be in its entry "blobs" (Caffe2) or "model" (Detectron2); the texts are those
    beside that entry. Files of Python 2 and 3, protocols 0 to 5, numpy 1 and 2. Byte strings of
    Python 2 are read as latin1. Other values (a learning rate, a step) are left out.

    Raises:
        WeightsError: the file is too large, is cut short, asks for anything but a dict of
            numeric arrays, or holds NaN or infinity.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise WeightsError(f"{path}: larger than the {MAX_FILE_BYTES} bytes read of a pickle")
        data = path.read_bytes()
        return _content(_Machine().run(BytesIO(data)), max_bytes=len(data))
    except _RefusedError as error:
        raise WeightsError(f"{path}: refused, the pickle holds {error}") from None
    except (ValueError, TypeError, LookupError, OverflowError) as error:  # of values, stack, memo
        reason = str(error)[:100]  # it may quote the file
        raise WeightsError(f"{path}: not a pickle of arrays, or damaged ({reason})") from error
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error})") from error


class _RefusedError(Exception):
    """What the file holds that a dict of arrays does not need."""


@dataclass
class _Dtype:
    code: str
    byte_order: str = "|"  # "|": as `code` says


@dataclass
class _Array:
    """An array as the file describes it; nothing is allocated for it yet."""

    data: str | bytes | bytearray = b""
    dtype: _Dtype | None = None
    shape: tuple[int, ...] = ()
    order: str = "C"
    axes: tuple[int, ...] | None = None


_NDARRAY = object()  # stands for the class numpy.ndarray


def _reconstruct(kind: object, _shape: object, _code: object) -> _Array:
    """Stands for numpy's function: an array that BUILD is about to fill."""
    if kind is not _NDARRAY:
        raise _RefusedError("a subclass of numpy.ndarray")
    return _Array()


def _frombuffer(
    data: bytes,
    dtype: _Dtype,
    shape: tuple[int, ...],
    order: str,
    axes: tuple[int, ...] | None = None,
) -> _Array:
    """Stands for numpy's function of protocol 5; `axes` goes with the order "K"."""
    return _Array(data, dtype, shape, "F" if order == "F" else "C", axes)


def _dtype(code: str, _align: object = False, _copy: object = True) -> _Dtype:
    if not isinstance(code, str) or not _DTYPE.fullmatch(code):
        raise _RefusedError("a dtype that is not a plain number")
    return _Dtype(code)


def _scalar(dtype: object, data: object = None) -> None:
    """Stands for numpy's function; scalars are left out, so their value does not matter."""


def _encode(text: str, encoding: str) -> str:
    """Stands for `_codecs.encode`; the text stays text, like the byte strings of Python 2."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise _RefusedError("an encoding other than latin1")
    return text


def _empty_bytes() -> bytes:
    """Stands for `bytes`, which with an argument would be a memory bomb."""
    return b""


def _ordered_dict(items: Any = ()) -> dict[str, Any]:
    """Stands for `collections.OrderedDict`; every dict keeps its order."""
    if not isinstance(items, list) and items != ():
        raise _RefusedError("an OrderedDict of something that is not a list")
    made: dict[str, Any] = {}
    for pair in items:
        if type(pair) not in (list, tuple) or len(pair) != 2:
            raise _RefusedError("an item of a dict that is not a pair")
        _update(made, list(pair))
    return made


_GLOBALS: dict[str, object] = {
    "collections OrderedDict": _ordered_dict,
    "numpy ndarray": _NDARRAY,
    "numpy dtype": _dtype,
    "_codecs encode": _encode,
    "__builtin__ bytes": _empty_bytes,
    "builtins bytes": _empty_bytes,
}
for _core in ("numpy.core", "numpy._core"):  # numpy 1, numpy 2
    _GLOBALS[f"{_core}.multiarray _reconstruct"] = _reconstruct
    _GLOBALS[f"{_core}.multiarray scalar"] = _scalar
    _GLOBALS[f"{_core}.numeric _frombuffer"] = _frombuffer

_LITERAL = re.compile(
    r"(BIN)?INT[12]?|LONG1?|(BIN)?FLOAT|STRING|(SHORT_)?BINSTRING|"
    r"UNICODE|(SHORT_)?BINUNICODE|BINUNICODE8|(SHORT_)?BINBYTES|BINBYTES8|BYTEARRAY8"
)
_CONSTANTS: dict[str, Callable[[], object]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
}


class _Machine:
    """The stack, the memo and the opcodes that are understood."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks under each MARK
        self.memo: dict[object, Any] = {}

    def run(self, stream: BytesIO) -> object:
        """Returns what the pickle in `stream` leaves on the stack."""
        for _ in range(_MAX_OPCODES):
            code = stream.read(1)
            opcode = _OPCODES.get(code)
            if opcode is None:
                raise ValueError(f"opcode {code!r}" if code else "cut short")
            if opcode.name == "STOP":
                return self.stack.pop()
            if opcode.name == "STRING":
                argument: object = _read_string(stream)
            else:
                argument = opcode.arg.reader(stream) if opcode.arg else None
            self.step(opcode.name, argument)
        raise _RefusedError(f"more than {_MAX_OPCODES} opcodes")

    def step(self, name: str, argument: object) -> None:
        """Carries out one opcode."""
        stack = self.stack
        match name:
            case _ if _LITERAL.fullmatch(name):
                stack.append(argument)
            case _ if name in _CONSTANTS:
                stack.append(_CONSTANTS[name]())
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case "MARK":
                self.below.append(stack)
                self.stack = []
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(self.pop(int(name[-1]))))
            case "TUPLE" | "LIST" | "DICT" | "APPENDS" | "SETITEMS":
                self.collect(name)
            case "APPEND":
                value = stack.pop()
                _extend(stack[-1], [value])
            case "SETITEM":
                items = self.pop(2)
                _update(stack[-1], items)
            case "GLOBAL":
                stack.append(_global(*str(argument).split(" ", 1)))
            case "STACK_GLOBAL":
                stack.append(_global(*self.pop(2)))
            case "REDUCE":
                function, arguments = self.pop(2)
                stack.append(_call(function, arguments))
            case "BUILD":
                state = stack.pop()
                _build(stack[-1], state)
            case "PROTO" | "FRAME":
                pass  # all opcodes of all protocols are known, and frames only help to read ahead
            case _:
                raise _RefusedError(f"the opcode {name}")

    def collect(self, name: str) -> None:
        """Makes or extends a collection with everything since the last MARK."""
        values, self.stack = self.stack, self.below.pop()
        match name:
            case "TUPLE":
                self.stack.append(tuple(values))
            case "LIST":
                self.stack.append(values)
            case "DICT":
                self.stack.append({})
                _update(self.stack[-1], values)
            case "APPENDS":
                _extend(self.stack[-1], values)
            case "SETITEMS":
                _update(self.stack[-1], values)

    def pop(self, count: int) -> list[Any]:
        """Returns the last `count` values, the oldest first."""
        values = [self.stack.pop() for _ in range(count)]
        return values[::-1]


def _read_string(stream: BytesIO) -> str:
    """Returns a string of Python 2's protocol 0; pickletools before 3.13 reads only ASCII ones."""
    line = stream.readline().rstrip(b"\n")
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
        raise ValueError("a string without quotes")
    return codecs.escape_decode(line[1:-1])[0].decode("latin1")  # pickle's own way


def _global(module: object, name: object) -> object:
    if not isinstance(module, str) or not isinstance(name, str):
        raise _RefusedError("a name that is not a string")
    if f"{module} {name}" not in _GLOBALS:
        raise _RefusedError(f"the name {f'{module}.{name}'[:80]!r}")
    return _GLOBALS[f"{module} {name}"]


def _call(function: object, arguments: object) -> object:
    if not isinstance(function, FunctionType) or not isinstance(arguments, tuple):
        raise _RefusedError("a call of something that is not a function")
    return function(*arguments)


def _build(target: object, state: object) -> None:
    """Fills an array or a dtype with its state, as numpy's `__setstate__` takes it."""
    match target, state:
        case _Dtype(), (int(), "<" | ">" | "=" | "|" as byte_order, None, None, None, *_):
            target.byte_order = byte_order
        case _Array(), (int(), shape, _Dtype() as dtype, int(fortran), data):
            target.data, target.dtype, target.shape = data, dtype, shape
            target.order = "F" if fortran else "C"
        case _:
            raise _RefusedError("a state that no numeric array has")


def _extend(target: object, values: list[Any]) -> None:
    if type(target) is not list:
        raise _RefusedError("an append to something that is not a list")
    target.extend(values)


def _update(target: object, items: list[Any]) -> None:
    if type(target) is not dict:
        raise _RefusedError("an item of something that is not a dict")
    for key, value in zip(items[::2], items[1::2], strict=True):
        if type(key) is not str:  # hashing a crafted tuple takes for ever, or all of the C stack
            raise _RefusedError("a key that is not a string")
        if key in target:
            raise _RefusedError(f"the key {key[:80]!r} twice")
        target[key] = value


def _content(top: object, *, max_bytes: int) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Returns the arrays in the top level dict, or in its entry of arrays, and its texts."""
    blobs, texts = top, {}
    if isinstance(top, dict):
        blobs = next((top[key] for key in _WRAPPERS if key in top), top)
        texts = {key: text for key, text in top.items() if isinstance(text, str)}
    if not isinstance(blobs, dict):
        raise _RefusedError("no dict of arrays at its top level")
    return _arrays(blobs, max_bytes=max_bytes), texts


def _arrays(blobs: dict[str, Any], *, max_bytes: int) -> dict[str, np.ndarray]:
    arrays = {name: value for name, value in blobs.items() if isinstance(value, _Array)}
    for name, array in arrays.items():
        if not isinstance(array.data, str | bytes | bytearray):
            raise _RefusedError(f"an array of objects, {name[:80]!r}")
    if sum(len(array.data) for array in arrays.values()) > max_bytes:
        raise _RefusedError("the same bytes for many arrays, more than the file has")
    return {name: _materialize(name, array) for name, array in arrays.items()}


def _materialize(name: str, array: _Array) -> np.ndarray:
    if array.dtype is None:
        _refuse_array(name, "without content")
    sizes = array.shape if isinstance(array.shape, tuple) and len(array.shape) <= 8 else (-1,)
    if not all(type(size) is int and 0 <= size <= MAX_FILE_BYTES for size in sizes):
        _refuse_array(name, "with an impossible shape")
    data = array.data.encode("latin1") if isinstance(array.data, str) else array.data
    dtype = np.dtype(array.dtype.code).newbyteorder(array.dtype.byte_order)  # type: ignore[arg-type]
    if math.prod(array.shape) * dtype.itemsize != len(data):
        _refuse_array(name, f"of shape {array.shape} with {len(data)} bytes")
    view = np.ndarray(array.shape, dtype, data, order="F" if array.order == "F" else "C")
    if array.axes is not None:
        view = view.transpose(array.axes)
    if dtype.kind == "f" and not np.isfinite(view).all():
        _refuse_array(name, "with NaN or infinity")
    return np.array(view, dtype=dtype.newbyteorder("="), order="C")


def _refuse_array(name: str, what: str) -> NoReturn:
    raise _RefusedError(f"an array {what}, {name[:80]!r}")
