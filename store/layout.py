"""The on-disk format of a history, version 1, as plain data and arithmetic.

::

    run.zarr/                         one Zarr v3 group; its attribute "weightcast" holds the header
      weights  [P, T] float32         chunk: parameters x block of steps, whole blocks appended
      buffers  [B, T] float64         BatchNorm statistics and the like, so that a rewind is exact
      gradients, optimizer/KEY        [P, T] like weights: further arrays, if they were asked for
      step     [T] int64              strictly increasing optimizer steps, 0 first
      time     [T] float64            seconds since the recording began
      metrics/NAME/value, .../step    what the training loop logged

Rows at and past ``committed`` in the header are not there for a reader.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

from weightcast.store.errors import FormatError, UsageError
from weightcast.store.parameters import ParameterTable

FORMAT_VERSION = 1
ATTRIBUTE = "weightcast"  # the one attribute of the group that is ours

PARAMETERS_PER_CHUNK = 16384  # x 64 steps of float32 = 4 MB decoded
STEPS_PER_CHUNK = 64
MOST_FILES_PER_BLOCK = 1000
SHORT_CHUNK = 4096  # of the one-dimensional arrays: 32 KB

_METRIC_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]{0,99}")
_EXTRA_NAME = re.compile(r"gradients|optimizer/[A-Za-z0-9_]{1,60}")


def block_length(row_bytes: int, budget: int) -> int:
    """Steps to hold in memory before they are compressed and appended.

    Parameters
    ----------
    row_bytes : int
        Bytes of one recorded step.
    budget : int
        Bytes that the block may take.

    Returns
    -------
    int
        64, or less where 64 rows would not fit the budget; at least 1.

    Examples
    --------
    >>> block_length(4 * 550_000, 256 << 20), block_length(4 * 100_000_000, 2 << 30)
    (64, 5)
    """
    return max(1, min(STEPS_PER_CHUNK, budget // max(row_bytes, 1)))


def chunk_shape(parameters: int, block: int) -> tuple[int, int]:
    """Chunk of the weights array: [parameters, steps].

    Parameters per chunk grow with P so that one appended block is at most 1,000 files.

    Examples
    --------
    >>> chunk_shape(550_000, 64), chunk_shape(10, 64), chunk_shape(1_000_000_000, 2)
    ((16384, 64), (10, 64), (1000000, 2))
    """
    wide = max(PARAMETERS_PER_CHUNK, -(-parameters // MOST_FILES_PER_BLOCK))
    return max(1, min(wide, parameters)), block


def metric_path(name: str) -> str:
    """Where a metric is kept in the group, or an error if its name cannot be one.

    Examples
    --------
    >>> metric_path("loss"), metric_path("val/loss")
    ('metrics/loss', 'metrics/val%2Floss')
    >>> metric_path("../weights")
    Traceback (most recent call last):
    weightcast.store.errors.UsageError: a metric's name has letters, digits and any of _ - . / \
and does not start with a dot or __, and is not zarr.json: got '../weights'
    """
    taken = name == "zarr.json" or name.startswith("__")  # Zarr's own files
    if taken or not _METRIC_NAME.fullmatch(name):
        raise UsageError(
            "a metric's name has letters, digits and any of _ - . / and does not start with a dot "
            f"or __, and is not zarr.json: got {name!r}"
        )
    return f"metrics/{name.replace('/', '%2F')}"


def check_extra(name: object) -> str:
    """Return the name of a further array, which is also its path in the group, or refuse it.

    Examples
    --------
    >>> check_extra("gradients"), check_extra("optimizer/exp_avg")
    ('gradients', 'optimizer/exp_avg')
    """
    if not isinstance(name, str) or not _EXTRA_NAME.fullmatch(name):
        raise UsageError(
            "a further array is gradients, or optimizer/KEY with a key of the optimizer's state in "
            f"letters, digits and _: got {name!r}"
        )
    return name


@dataclass
class Header:
    """The attribute that makes a Zarr group a history.

    Parameters
    ----------
    parameters, buffers : ParameterTable
        What the rows of ``weights`` and ``buffers`` are.
    committed : int
        Steps that are there for a reader.
    schedule, preset : str
        How the history was recorded.
    error : float or None
        The absolute error bound of the weights, if the preset is ``bounded``.
    versions : dict
        Of weightcast, torch and whatever else wrote it.
    metadata : dict
        The user's own, JSON-able.
    metrics : dict of str to int
        Committed entries of each metric.
    extras : tuple of str
        Further arrays in the shape of the weights: ``gradients``, ``optimizer/exp_avg``.
    ties : dict of str to str
        Further names of tied tensors, each with the name that the tensor is stored under.
    ring : (str, int) or None
        The ring file that the latest metric entries came from, and how many of it are committed.
    """

    parameters: ParameterTable
    buffers: ParameterTable = field(default_factory=lambda: ParameterTable(()))
    committed: int = 0
    schedule: str = ""
    preset: str = "fast"
    error: float | None = None
    versions: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, int] = field(default_factory=dict)
    extras: tuple[str, ...] = ()
    ties: dict[str, str] = field(default_factory=dict)
    ring: tuple[str, int] | None = None

    @property
    def latest_schedule(self) -> str:
        """The schedule in force, of the several that a resumed recording may have had."""
        return self.schedule.rpartition(" ")[2]

    def to_json(self) -> dict[str, Any]:
        """Plain data, for the group's attributes."""
        return {
            "format": FORMAT_VERSION,
            "committed": self.committed,
            "parameters": self.parameters.to_json(),
            "buffers": self.buffers.to_json(),
            "schedule": self.schedule,
            "preset": self.preset,
            "error": self.error,
            "versions": self.versions,
            "metadata": self.metadata,
            "metrics": self.metrics,
            "extras": list(self.extras),
            "ties": self.ties,
            "ring": self.ring and list(self.ring),
        }

    @classmethod
    def from_json(cls, document: Any, path: object) -> Header:
        """Read a header; `path` is for the messages only.

        Raises
        ------
        FormatError
            If it is not a history's header, is damaged, or is of a newer format.
        """
        if not isinstance(document, dict) or "parameters" not in document:
            dataset = isinstance(document, dict) and "recipe" in document
            what = "it is a dataset" if dataset else "it has no parameter table"
            raise FormatError(f"{path} is not a weightcast history: {what}")
        version = document.get("format")
        if type(version) is not int or version < 1:
            raise FormatError(f"{path} is damaged: format {version!r} is not a format number")
        if version > FORMAT_VERSION:
            raise FormatError(
                f"{path} has history format {version}, this weightcast reads up to "
                f"{FORMAT_VERSION}: upgrade weightcast"
            )
        committed, metrics = document.get("committed"), document.get("metrics", {})
        if not isinstance(metrics, dict):
            raise FormatError(f"{path} is damaged: its metrics are {metrics!r}")
        for what, count in [("steps", committed), *metrics.items()]:
            if type(count) is not int or count < 0:
                raise FormatError(f"{path} is damaged: {count!r} is not a count of {what}")
        extras = document.get("extras", [])
        if not isinstance(extras, list):
            raise FormatError(f"{path} is damaged: its further arrays are {extras!r}")
        try:
            for name in metrics:
                metric_path(name)
            for name in extras:
                check_extra(name)
        except UsageError as error:
            raise FormatError(f"{path} is damaged: {error}") from error
        bound = document.get("error")
        if bound is not None and (type(bound) not in (int, float) or not 0 < bound < math.inf):
            raise FormatError(f"{path} is damaged: its error bound is {bound!r}")
        try:
            return cls(
                parameters=ParameterTable.from_json(document["parameters"]),
                buffers=ParameterTable.from_json(document.get("buffers", [])),
                committed=int(committed or 0),
                schedule=str(document.get("schedule", "")),
                preset=str(document.get("preset", "")),
                error=None if bound is None else float(bound),
                versions=dict(document.get("versions", {})),
                metadata=dict(document.get("metadata", {})),
                metrics=metrics,
                extras=tuple(extras),
                ties=_ties(document.get("ties", {})),
                ring=_ring(document.get("ring")),
            )
        except (ArithmeticError, TypeError, ValueError, RecursionError) as error:
            raise FormatError(f"{path} is damaged: {error}") from error


def _ties(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise ValueError(f"its ties are {value!r}")
    return value


def _ring(value: Any) -> tuple[str, int] | None:
    if value is None:
        return None
    name, entries = value
    if not isinstance(name, str) or type(entries) is not int:
        raise ValueError(f"its ring is {value!r}")
    return name, entries
