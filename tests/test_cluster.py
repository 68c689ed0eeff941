"""The cluster's files, run here: two nodes on one machine, and Slurm played by two scripts."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.test_experiment import last, logged, make_root, read_test, records, words

REPOSITORY = Path(__file__).parents[1]
SCRIPT = REPOSITORY / "configs" / "cluster" / "slurm.sh"
RUN = str(REPOSITORY / "run.py")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
# One clip a rank and step, of 8 videos: two steps an epoch for four ranks.
FEW = ["optim.clips_per_gpu=1", "optim.max_steps=3", "eval.num_clips=1", "model.norm.kind=bn"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_root(tmp_path_factory.mktemp("data") / "root", val=2)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def test_the_slurm_script_is_valid_bash_and_asks_for_a_signal_and_a_requeue() -> None:
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)
    options = [line for line in SCRIPT.read_text().splitlines() if line.startswith("#SBATCH")]
    assert {"#SBATCH --signal=USR1@300", "#SBATCH --requeue"} <= set(options)
    assert os.access(SCRIPT, os.X_OK)


@pytest.mark.slow
def test_two_nodes_of_two_ranks_train_what_one_node_of_four_does(
    root: Path, tmp_path: Path
) -> None:
    node = [*TORCHRUN, "--nnodes", "2", "--nproc_per_node", "2", "--rdzv_backend", "c10d"]
    node += ["--rdzv_endpoint", f"localhost:{free_port()}", "--rdzv_id", "test", RUN]
    one = [*TORCHRUN, "--standalone", "--nproc_per_node", "4", RUN]
    nodes = [
        subprocess.Popen([*node, *words(root, *FEW, "run_dir=two")], cwd=tmp_path) for _ in range(2)
    ]
    assert [process.wait(200) for process in nodes] == [0, 0]
    subprocess.run([*one, *words(root, *FEW, "run_dir=one")], cwd=tmp_path, check=True, timeout=200)
    require_equal(tmp_path / "two", tmp_path / "one")


def require_equal(folder: Path, reference: Path) -> None:
    one, other = last(folder), last(reference)
    assert one["step"] == other["step"]
    for name, value in one["model"].items():
        assert torch.equal(value, other["model"][name]), name
    assert records(folder) == records(reference)
    assert read_test(folder) == read_test(reference)


def started_by(pid: int) -> int:
    """Returns the only child of a process."""
    command = ["ps", "-o", "pid=", "--ppid", str(pid)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def fake_slurm(folder: Path) -> dict[str, str]:
    """Returns the environment of a job on one node, with an `srun` that runs and no more."""
    folder.mkdir()
    python = shlex.quote(sys.executable)
    programs = {
        "srun": 'while [[ $1 == -* ]]; do shift; done\nexec "$@"',
        "scontrol": f'echo "$@" >>{shlex.quote(str(folder / "asked"))}\necho localhost',
        "python": f'exec {python} "$@"',
    }
    for name, text in programs.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(0o755)
    job = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NUM_NODES": "1", "SLURM_GPUS_ON_NODE": "2"}
    job |= {"SLURM_JOB_NODELIST": "localhost", "SLURM_SUBMIT_DIR": str(REPOSITORY)}
    return os.environ | job | {"PATH": f"{folder}:{os.environ['PATH']}"}


@pytest.mark.slow
def test_a_job_near_its_limit_saves_asks_for_itself_again_and_goes_on(
    root: Path, tmp_path: Path
) -> None:
    environment = fake_slurm(tmp_path / "bin")
    run, asked = tmp_path / "run", tmp_path / "bin" / "asked"
    more = ["optim.epochs=8", "optim.milestones=[6]", "eval.monitor_every_epochs=8"]
    more += ["optim.clips_per_gpu=1", "eval.num_clips=1", "save_every_steps=1000"]

    def job(folder: Path) -> list[str]:
        return ["bash", str(SCRIPT), *words(root, *more, f"run_dir={folder}")]

    process = subprocess.Popen(job(run), env=environment, start_new_session=True)
    deadline = time.monotonic() + 100
    while logged(run) < 3:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(started_by(process.pid), signal.SIGUSR1)  # as Slurm: what srun has started, alone
    assert process.wait(60) != 0
    assert "requeue 4711" in asked.read_text()
    assert 3 <= last(run)["step"] < 32
    assert not (run / "test.json").exists()

    subprocess.run(job(run), env=environment, check=True, timeout=200)
    subprocess.run(job(tmp_path / "unbroken"), env=environment, check=True, timeout=200)
    require_equal(run, tmp_path / "unbroken")
