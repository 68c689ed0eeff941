"""Every error a user can meet, each with the exit code that `run.py` ends with.

Messages are one sentence: what, which value, where, and what to do.
"""

from __future__ import annotations

from os import PathLike


class VideognError(Exception):
    """Base of all errors that are the input's fault rather than a defect of the program."""

    exit_code = 2


class ConfigError(VideognError):
    """A key, type or value of the configuration or the command line is refused."""


class WeightsError(VideognError):
    """A file of pre-trained weights cannot be found, downloaded or read."""


class WeightsMismatchError(WeightsError):
    """A file of weights was read but does not fit the network; the message lists every tensor."""


class CheckpointError(VideognError):
    """A checkpoint is missing, damaged, or belongs to another network."""


class FolderInUseError(VideognError):
    """Another process writes to the folder of a run or a test."""


class ExportError(VideognError):
    """An exported program does not compute what the network does."""


class DataError(VideognError):
    """The data root, a manifest or too many of its videos are unusable."""

    exit_code = 3


class NoDataRootError(DataError):
    """There is no data root where it should be; it may lie elsewhere."""


class VideoDecodeError(DataError):
    """One video cannot give the frames asked for.

    Attributes:
        path: the file.
        reason: why, in a few words.
    """

    def __init__(self, path: str | PathLike[str], reason: str) -> None:
        super().__init__(str(path), reason)  # the arguments, so that it pickles across workers
        self.path = str(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class IncompleteEvaluationError(VideognError):
    """A result was asked for before every (video, view) had been scored exactly once."""


class TrainingDivergedError(VideognError):
    """The loss or a gradient is no longer a finite number."""

    exit_code = 4


class MemoryExhaustedError(VideognError):
    """The device, or this machine, has no memory left; the message says what needs less."""

    exit_code = 5


class RunInterruptedError(VideognError):
    """A signal ended the run; its checkpoint is saved."""

    exit_code = 130


class RankLostError(VideognError):
    """Another process of the run has ended or hangs, so that this one cannot go on.

    Args:
        message: which, and why if it said so.
        exit_code: the other's; 1 when it ended without a word.
    """

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def unusable_place(error: OSError) -> str:
    """Returns what to say of a file or folder that cannot be read, made or written."""
    place = error.filename2 or error.filename  # of a rename, where to
    return f"{place}: {error.strerror}; choose another place, or check its permissions and space"
