"""Crafted archives and containers: none is run, none takes much memory, each is refused clearly."""

from __future__ import annotations

import io
import json
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.weights.test_pickles import DOUBLED
from videogn.errors import WeightsError
from videogn.weights import content, read_weights, torch_files
from videogn.weights.content import read_content

GIB = 2**30


def zipped(members: dict[str, bytes], *, compress: bool = False) -> bytes:
    buffer = io.BytesIO()
    how = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(buffer, "w", how, compresslevel=1) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def npy(header: str, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    """A .npy whose header says whatever it is told to."""
    text = header.encode() + b"\n"
    size = struct.pack("<H" if version == b"\x01\x00" else "<I", len(text))
    return b"\x93NUMPY" + version + size + text + data


def described(descr: str, shape: str) -> str:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"


def npz(data: bytes) -> bytes:
    return zipped({"conv0/W.npy": data})


def torch_zip(
    data: bytes, *, compress: bool = False, extra: dict[str, bytes] | None = None
) -> bytes:
    members = {"archive/data.pkl": data, "archive/byteorder": b"little", "archive/version": b"3\n"}
    return zipped(members | (extra or {}), compress=compress)


def safetensors(header: object, data: bytes = b"", *, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(shape: list[int], offsets: list[int], dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


class Runs:
    """Unpickling it writes a file."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[object, ...]:
        return self.call


def saved(value: object, *, zipped: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def object_npz(canary: Path) -> bytes:
    buffer = io.BytesIO()
    array = np.array([Runs(open, str(canary), "w")], dtype=object)
    np.savez(buffer, W=array)
    return buffer.getvalue()


def expanded() -> bytes:
    """Four bytes that are said to be a hundred tensors of 4 GiB."""
    names = [f"layer{i}.0.bn1.weight" for i in range(1, 101)]
    return saved(dict.fromkeys(names, torch.ones(1).expand(GIB)))


def huge_call(name: str, argument: bytes) -> bytes:
    return b"\x80\x02c" + name.replace(" ", "\n").encode() + b"\n(" + argument + b"tR."


@cache
def bombs() -> dict[str, bytes]:
    """Files that say they are far larger than they are."""
    zeros = npy(described("'|u1'", str((2**26,))), bytes(2**26))
    return {
        "npz of 512 MiB of zeros": zipped({f"{i}.npy": zeros for i in range(8)}, compress=True),
        "npy of 4 EiB": npz(npy(described("'<f4'", f"({2**60},)"), b"abcd")),
        "npy of 2**200": npz(npy(described("'<f4'", f"({2**100}, {2**100})"), b"abcd")),
        "npy of many dimensions": npz(npy(described("'<f4'", "(" + "9," * 100 + ")"), b"abcd")),
        "npy header of 60 kB": npz(npy(described("'<f4'", "(1,)") + " " * 60_000, b"abcd")),
        "npy header nested": npz(npy("(" * 5000 + ")" * 5000, b"abcd")),
        "torch zip, bytearray": torch_zip(
            huge_call("builtins bytearray", b"J" + struct.pack("<i", 10**9))
        ),
        "torch zip, compressed": torch_zip(
            pickle.dumps({}, 2), compress=True, extra={"archive/data/0": bytes(2**27)}
        ),
        "torch zip, expanded": expanded(),
        "safetensors header of 4 GiB": safetensors({}, length=2**32 - 1),
        "safetensors header of 20 MB": safetensors(b"{" + b" " * 20_000_000),
        "safetensors of 4 EiB": safetensors({"a": tensor([2**60], [0, 2**62])}, b"abcd"),
    }


def hostile(canary: Path) -> dict[str, bytes]:
    """Files that would run something, or are not what they say; by name."""
    system = Runs(__import__("os").system, f"touch {canary}")
    opener, evaluates = Runs(open, str(canary), "w"), Runs(eval, f"open({str(canary)!r}, 'w')")
    ok = npy(described("'<f4'", "(1,)"), b"abcd")
    f4 = {"a": tensor([1], [0, 4])}
    return {
        **{f"torch {how}, {name}": saved({"w": value}, zipped=how == "zip")
           for how in ("zip", "legacy")
           for name, value in (("os.system", system), ("open", opener), ("eval", evaluates))},
        "torch zip, deep in a state": saved({"optimizer": {"state": [{"x": (1, system)}]}}),
        "torch zip, key": torch_zip(pickle.dumps({"a": 1, "b": opener}, 2)),
        "torch zip, protocol 4": torch_zip(pickle.dumps({"a": system}, 4)),
        "torch zip, INST": torch_zip(f"(S'touch {canary}'\nios\nsystem\n.".encode()),
        "torch zip, torch.load": torch_zip(
            huge_call("torch.serialization load", b"S'/etc/hostname'\n")),
        "torch zip, load from bytes": torch_zip(
            huge_call("torch.storage _load_from_bytes", b"S'x'\n")),
        "torch zip, second pickle": torch_zip(
            pickle.dumps({}, 2), extra={"archive/constants.pkl": pickle.dumps(system, 2)}),
        "torch zip, TorchScript": torch_zip(
            pickle.dumps({}, 2), extra={"archive/code/__torch__.py": b"import os"}),
        "torch zip, hash of 2**60 tuples": torch_zip(b"\x80\x02}" + DOUBLED + b"Ns."),
        "torch zip, no data": zipped({"archive/version": b"3\n"}),
        "torch zip, name with ..": zipped({"../../data.pkl": pickle.dumps(system, 2)}),
        "torch of a list": saved([torch.ones(1)]),
        "torch of a sparse tensor": saved({"w": torch.ones(2, 2).to_sparse()}),
        "torch of a meta tensor": saved({"w": torch.ones(2, 2, device="meta")}),
        "torch of a complex tensor": saved({"w": torch.ones(2, dtype=torch.complex64)}),
        "torch of numpy": saved({"w": np.ones(2)}),
        "npz of objects": object_npz(canary),
        "npz, pickle for an array": zipped({"W.npy": pickle.dumps(system)}),
        "npz, object dtype": npz(npy(described("'|O'", "(1,)"), pickle.dumps(system))),
        "npz, fields": npz(npy(described("[('a', '<f4'), ('b', '|O')]", "(1,)"), bytes(16))),
        "npz, text": npz(npy(described("'<U4'", "(1,)"), bytes(16))),
        "npz, complex": npz(npy(described("'<c16'", "(1,)"), bytes(16))),
        "npz, code in the header": npz(npy(f"__import__('os').system('touch {canary}')")),
        "npz, negative shape": npz(npy(described("'<f4'", "(-1,)"), b"abcd")),
        "npz, shape of floats": npz(npy(described("'<f4'", "(1.0,)"), b"abcd")),
        "npz, too few bytes": npz(npy(described("'<f4'", "(2,)"), b"abcd")),
        "npz, too many bytes": npz(npy(described("'<f4'", "(1,)"), b"abcdefgh")),
        "npz, version 9": npz(npy(described("'<f4'", "(1,)"), b"abcd", b"\x09\x00")),
        "npz, a file that is no array": zipped({"W.npy": ok, "setup.py": b"import os"}),
        "npz, cut": npz(ok)[:-30],
        "npz, NaN": npz(npy(described("'<f4'", "(1,)"), b"\x00\x00\xc0\x7f")),
        "safetensors, overlapping": safetensors(f4 | {"b": tensor([1], [0, 4])}, b"abcd"),
        "safetensors, out of range": safetensors({"a": tensor([1], [4, 8])}, b"abcd"),
        "safetensors, negative": safetensors({"a": tensor([-1], [0, 4])}, b"abcd"),
        "safetensors, wrong size": safetensors({"a": tensor([2], [0, 4])}, b"abcd"),
        "safetensors, unknown dtype": safetensors({"a": tensor([1], [0, 4], "OBJ")}, b"abcd"),
        "safetensors, header that is no JSON": safetensors(b"{not json}"),
        "safetensors, nested header": safetensors(b'{"a":' * 100_000),
        "safetensors, cut": safetensors(f4, b"ab"),
        "safetensors, trailing bytes": safetensors(f4, b"abcdefgh"),
        "safetensors, metadata of ours broken": safetensors(
            f4 | {"__metadata__": {"videogn": "{"}}, b"abcd"),
        "safetensors, metadata of ours nested": safetensors(
            f4 | {"__metadata__": {"videogn": "[" * 100_000}}, b"abcd"),
    }  # fmt: skip


@pytest.mark.parametrize("name", hostile(Path("canary")))
def test_hostile_containers_are_refused_and_not_run(name: str, tmp_path: Path) -> None:
    canary, path = tmp_path / "canary", tmp_path / "weights.bin"
    path.write_bytes(hostile(canary)[name])
    with pytest.raises(WeightsError) as caught:
        read_weights(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 600
    assert not canary.exists()


def test_pickle_runs_what_is_refused_here(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    files = hostile(canary)
    (tmp_path / "a").write_bytes(files["torch zip, eval"])
    torch.load(tmp_path / "a", weights_only=False)
    assert canary.exists()
    canary.unlink()
    np.load(io.BytesIO(files["npz of objects"]), allow_pickle=True)["W"]
    assert canary.exists()


PROBE = """
import sys
from pathlib import Path
from videogn.errors import WeightsError
from videogn.weights import read_weights

def peak():  # KiB; not getrusage's, which a process inherits from its parent
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

for file in sorted(Path(sys.argv[1]).iterdir()):
    before = peak()
    try:
        read_weights(file)
        print(file.name, peak() - before, "READ", sep="|")
    except WeightsError as error:
        print(file.name, peak() - before, error, sep="|")
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's VmHWM")
def test_bombs_are_refused_in_bounded_memory(tmp_path: Path) -> None:
    """In a process of its own, by the most memory that it ever had."""
    made = bombs()
    for name, data in made.items():
        (tmp_path / name).write_bytes(data)
    command = [sys.executable, "-c", PROBE, str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    rows = {line.split("|")[0]: line.split("|")[1:] for line in result.stdout.splitlines()}
    assert rows.keys() == made.keys()
    for name, (grown, message) in rows.items():
        assert message != "READ", name
        assert name in message, message
        assert int(grown) < 100 * 1024, (name, grown)


def test_the_counts_that_are_claimed() -> None:
    assert len(hostile(Path("canary"))) + len(bombs()) >= 35


# ---- messages ----------------------------------------------------------------------------------


def test_the_message_names_what_the_file_holds_and_how_to_strip_it(tmp_path: Path) -> None:
    path = tmp_path / "epoch_100.pth"
    buffers = {"loss": Runs(complex, 1)}  # stands for MMEngine's HistoryBuffer
    path.write_bytes(saved({"state_dict": {}, "message_hub": buffers}))
    with pytest.raises(WeightsError, match=r"\(builtins\.complex|__builtin__\.complex\)") as caught:
        read_weights(path)
    assert "torch.save({'state_dict': torch.load(IN, weights_only=False)['state_dict']}" in str(
        caught.value
    )


def test_a_torch_with_holes_opens_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.pth").write_bytes(saved({"bn1.weight": torch.ones(1)}))
    monkeypatch.setattr(torch, "__version__", "2.5.1")
    monkeypatch.setattr(torch_files.torch, "load", lambda *_, **__: pytest.fail("opened"))
    with pytest.raises(WeightsError, match=r"torch 2\.5\.1 can be made.*install torch 2\.10"):
        read_weights(tmp_path / "a.pth")


def test_a_file_above_the_cap_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "MAX_FILE_BYTES", 10)
    (tmp_path / "a.pth").write_bytes(bytes(11))
    with pytest.raises(WeightsError, match="larger than the 10 bytes"):
        read_weights(tmp_path / "a.pth")


# ---- benign ------------------------------------------------------------------------------------


def test_an_npz_of_plain_numbers_is_read_as_numpy_reads_it(tmp_path: Path) -> None:
    arrays = {
        "kernel/W": np.random.RandomState(0).standard_normal((3, 3, 2, 4)).astype(np.float32),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big": np.arange(3, dtype=">f4"),
        "half": np.array(0.5, np.float16),
        "step": np.int64(7),
        "empty": np.zeros((0, 2), np.float32),
    }
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **arrays)
        found = read_content(tmp_path / "a.npz")
        assert found.container == "npz"
        assert found.tensors.keys() == arrays.keys()
        for name, array in arrays.items():
            np.testing.assert_array_equal(found.tensors[name].numpy(), array)
            assert found.tensors[name].dtype == torch.float32


def test_the_state_of_optimizers_and_schedules_is_no_obstacle(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 5])
    beside = {
        "optimizer": optimizer.state_dict(),
        "scheduler": schedule.state_dict(),  # a Counter
        "scaler": {"scale": 65536.0},
        "epoch": 3,
        "pairs": [((1, 2), (3, 4))] * 50,  # tuples in tuples, shared, as in AdamW's betas
        "best": {1, 2},
        "device": torch.device("cpu"),
        "dtype": torch.bfloat16,
    }
    for zip_it in (True, False):
        (tmp_path / "a").write_bytes(
            saved({"state_dict": model.state_dict()} | beside, zipped=zip_it)
        )
        found = read_content(tmp_path / "a")
        assert torch.equal(found.tensors["weight"], model.weight)
        assert found.extras.keys() == beside.keys()
