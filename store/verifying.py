"""Reading every chunk of a history, to know that all of it is there and right."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from os import cpu_count
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import Crc32cCodec

from weightcast.store.draining import recover_quietly
from weightcast.store.errors import FormatError, UsageError
from weightcast.store.expected import Expected, Part, expected_arrays
from weightcast.store.history import History
from weightcast.store.layout import ATTRIBUTE, Header
from weightcast.store.reading import one_line, open_group, read
from weightcast.store.remote import Place, printed
from weightcast.store.ring import in_use, ring_path

Progress = Callable[[str, int, int], None]
Values = npt.NDArray[Any]

BATCH = 256  # chunks that wait for a thread


@dataclass(frozen=True)
class Damage:
    """One chunk, or one array, that cannot be read, and what is lost with it.

    Parameters
    ----------
    array, chunk : str
        Path in the group, and key of the chunk; no chunk if the array itself is damaged.
    why : str
    parameters : tuple of str
        Names of the parameters or buffers in it.
    steps : (int, int) or None
        First and last recorded step in it, if the steps are known.
    """

    array: str
    chunk: str
    why: str
    parameters: tuple[str, ...] = ()
    steps: tuple[int, int] | None = None


@dataclass
class Verification:
    """What `verify` found.

    Parameters
    ----------
    path, preset : str
    error : float or None
        Absolute error bound that the history states for its weights.
    committed : int
        Rows that are there for a reader.
    chunks, bytes : int
        Chunks read, and the size of what they hold.
    damage : list of Damage
    nan_steps : dict of str to int
        Of each wide array: steps at which all is NaN. A run diverged, say, or had no gradients yet.
    unchecked : list of str
        Arrays whose chunks have no checksum: other programs write such.
    leftovers, leftover_bytes : int
        Files of a local history that no committed row needs: an interrupted append leaves some.
    waiting : bool
        Whether steps of a dead recording could not be added from its ring file.
    """

    path: str
    preset: str
    error: float | None
    committed: int
    chunks: int = 0
    bytes: int = 0
    damage: list[Damage] = field(default_factory=list)
    nan_steps: dict[str, int] = field(default_factory=dict)
    unchecked: list[str] = field(default_factory=list)
    leftovers: int = 0
    leftover_bytes: int = 0
    waiting: bool = False

    @property
    def ok(self) -> bool:
        """Whether nothing is damaged, and nothing is missing that was recorded."""
        return not self.damage and not self.waiting


Arrays = list[tuple[Expected, zarr.Array[Any]]]


def verify(
    history: History | Place, *, workers: int | None = None, progress: Progress | None = None
) -> Verification:
    """Read every chunk of a history and check what can be checked; go on after a damaged one.

    Parameters
    ----------
    history : History, path or URL
        A path or URL opens also where `History` refuses a damaged array.
    workers : int, optional
        Chunks to read at a time; by default as many as there are cores.
    progress : callable, optional
        Called with ("verifying", chunks done, chunks).

    Returns
    -------
    Verification

    Raises
    ------
    InputNotFoundError, FormatError
        If there is no history, or its header is damaged.

    Examples
    --------
    >>> import tempfile
    >>> from weightcast.store import HistoryWriter, ParameterTable
    >>> table = ParameterTable.of([("w", (2,), "float32", "weight")])
    >>> path = tempfile.mkdtemp() + "/run.zarr"
    >>> with HistoryWriter.create(path, table) as writer:
    ...     writer.append([0, 10], [0.0, 0.5], np.float32([[1, 2], [3, 4]]))
    >>> (Path(path) / "weights/c/0/0").unlink()
    >>> [(d.chunk, d.why, d.parameters, d.steps) for d in verify(path).damage]
    [('c/0/0', 'missing', ('w',), (0, 10))]
    """
    if workers is not None and workers < 1:
        raise UsageError(f"workers must be at least 1: got {workers}")
    path = history.path if isinstance(history, History) else printed(history)
    if isinstance(path, Path):
        recover_quietly(path)  # what waits in the ring of a dead recording belongs to it
    group = history.group if isinstance(history, History) else open_group(history)
    header = Header.from_json(dict(group.attrs).get(ATTRIBUTE), path)
    found = Verification(str(path), header.preset, header.error, header.committed)
    arrays = _open_arrays(group, header, found)
    with ThreadPoolExecutor(workers or cpu_count()) as pool:
        _read_all(arrays, found, pool, progress)
    if isinstance(path, Path):
        _count_leftovers(path, arrays, found)
        found.waiting = ring_path(path).exists() and not in_use(path)
    return found


def _open_arrays(group: zarr.Group, header: Header, found: Verification) -> Arrays:
    arrays = []
    for expected in expected_arrays(header):
        try:
            array = expected.open(group)
        except (FormatError, OSError) as error:
            names = tuple(p.name for p in expected.table or ())
            found.damage.append(Damage(expected.name, "", _why(error), names))
            continue
        arrays.append((expected, array))
        if not any(isinstance(codec, Crc32cCodec) for codec in array.compressors):
            found.unchecked.append(expected.name)
    return arrays


def _why(error: BaseException) -> str:
    return one_line(error.__cause__ or error).split(". ")[0]


def _read_all(
    arrays: Arrays, found: Verification, pool: ThreadPoolExecutor, progress: Progress | None
) -> None:
    """Read all chunks, a few at a time, and add what they show to `found`."""
    total = sum(expected.chunks(array) for expected, array in arrays)
    steps = None
    for expected, array in arrays:
        parts, columns = expected.parts(array), []
        nan = np.full(expected.count, expected.wide and array.shape[0] > 0)
        while batch := list(islice(parts, BATCH)):
            for part, result in zip(batch, pool.map(_read_part, batch), strict=True):
                if isinstance(result, str):
                    _add(found.damage, _damage(part, result, steps))
                    nan[part.where[-1]] = False
                elif expected.wide:
                    nan[part.where[-1]] &= result
                else:
                    columns.append(result)
            found.chunks += len(batch)
            if progress:
                progress("verifying", found.chunks, total)
        found.bytes += math.prod(array.shape[:-1]) * expected.count * array.dtype.itemsize
        if expected.wide:
            found.nan_steps[expected.name] = int(nan.sum())
        if expected.name == "step" and sum(map(len, columns)) == expected.count:
            steps = _check_steps(columns, found)


def _read_part(part: Part) -> Values | str:
    """Values of a column, or at which steps a wide array is all NaN; or what is wrong."""
    try:
        values = read(part.array, part.where)
    except (FormatError, OSError) as error:
        missing = isinstance(error, FormatError) and not error.__cause__  # nothing to decode
        return "missing" if missing else _why(error)
    return values if values.ndim == 1 else np.isnan(values).all(axis=0)


def _check_steps(columns: list[Values], found: Verification) -> Values | None:
    """All steps, if they increase from 0 on, as they must."""
    steps = np.concatenate([np.empty(0, np.int64), *columns])
    wrong = np.flatnonzero(np.diff(steps, prepend=-1) <= 0)
    if not len(wrong):
        return steps
    row = int(wrong[0])
    before = f"follows {steps[row - 1]}" if row else "is the first"
    found.damage.append(
        Damage("step", "", f"steps must increase: in row {row}, {steps[row]} {before}")
    )
    return None


def _damage(part: Part, why: str, steps: Values | None) -> Damage:
    """What is lost with a part of an array."""
    names: tuple[str, ...] = ()
    if part.expected.table is not None:
        low, high = part.where[0].start, part.where[0].stop
        names = tuple(p.name for p in part.expected.table if p.offset < high and p.stop > low)
    span = None
    if steps is not None and not part.expected.name.startswith("metrics/"):
        rows = part.where[-1]
        span = (int(steps[rows.start]), int(steps[rows.stop - 1]))
    return Damage(part.expected.name, part.key, why, names, span)


def _add(damage: list[Damage], new: Damage) -> None:
    """Add damage; several chunks of one damaged shard are one."""
    last = damage[-1] if damage else None
    if last is None or (last.array, last.chunk, last.why) != (new.array, new.chunk, new.why):
        damage.append(new)
        return
    names = tuple(dict.fromkeys((*last.parameters, *new.parameters)))
    spans = [d.steps for d in (last, new) if d.steps]
    span = (min(s[0] for s in spans), max(s[1] for s in spans)) if spans else None
    damage[-1] = replace(last, parameters=names, steps=span)


def _count_leftovers(path: Path, arrays: Arrays, found: Verification) -> None:
    """Count files below the arrays that hold nothing committed."""
    for expected, array in arrays:
        needed = {part.key for part in expected.parts(array)} | {"zarr.json"}
        folder = path / expected.name
        for file in folder.rglob("*"):
            if file.is_file() and file.relative_to(folder).as_posix() not in needed:
                with suppress(FileNotFoundError):  # a writer's, that it has just renamed
                    found.leftover_bytes += file.stat().st_size
                    found.leftovers += 1
