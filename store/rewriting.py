"""Writing a history anew, by a plan."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy.typing as npt
import zarr

from weightcast.store.codecs import wide_codecs
from weightcast.store.compaction import CompactionPlan
from weightcast.store.comparing import gather
from weightcast.store.history import History
from weightcast.store.layout import ATTRIBUTE, Header, metric_path
from weightcast.store.reading import settle
from weightcast.store.rechunking import Rewrite

Progress = Callable[[str, int, int], None]
Values = npt.NDArray[Any]


def rewrite(
    history: History, path: Path, plan: CompactionPlan, progress: Progress | None = None
) -> None:
    """Write a copy, its header last: without it the folder is no history.

    Parameters
    ----------
    history : History
    path : Path
        A folder that is not there yet.
    plan : CompactionPlan
    progress : callable, optional
        Called with ("writing", bands done, bands).
    """
    try:
        group = _write_short_arrays(history, path, plan)
        _write_wide_arrays(history, group, plan, progress)
        group.attrs[ATTRIBUTE] = _header(history.header, plan).to_json()
    except BaseException:
        settle()  # what zarr still writes would make folders anew
        raise


def _write_short_arrays(history: History, path: Path, plan: CompactionPlan) -> zarr.Group:
    source = history.group
    attributes = dict(source.attrs)  # the user's too, beside our header
    attributes.pop(ATTRIBUTE)
    group = zarr.create_group(path, zarr_format=3, attributes=attributes)
    _write_short(group, source, "step", history.steps[plan.rows])
    _write_short(group, source, "time", history.times[plan.rows])
    for name in history.metrics:
        for part, values in zip(("step", "value"), history.metric(name), strict=True):
            _write_short(group, source, f"{metric_path(name)}/{part}", values)
    return group


def _write_wide_arrays(
    history: History, group: zarr.Group, plan: CompactionPlan, progress: Progress | None
) -> None:
    targets = {array.name: _create(group, history, array, plan) for array in plan.arrays}
    bands = [(array.name, *band) for array in plan.arrays for band in array.bands()]
    for done, (name, where, at) in enumerate(bands):
        targets[name][where, at] = gather(history, name, where, plan.rows[at])
        if progress:
            progress("writing", done + 1, len(bands))


def _header(header: Header, plan: CompactionPlan) -> Header:
    """The header of the copy: what it was, and what became of it."""
    note = f"{header.preset} to {plan.preset}"
    if plan.error is not None:
        note += f" (error {plan.error:g})"
    if plan.thins:
        note += f" ({len(plan.rows)} of {plan.recorded} steps)"
    version = importlib.metadata.version("weightcast")
    before = header.versions.get("compacted")
    note = f"{note}, weightcast {version}"
    bounds = [e for e in (header.error, plan.error) if e is not None]
    return replace(
        header,
        committed=len(plan.rows),
        preset=plan.preset,
        error=sum(bounds) if bounds else None,  # what a copy of a copy may be off by
        versions=header.versions | {"compacted": f"{before}; {note}" if before else note},
    )


def _create(
    group: zarr.Group, history: History, array: Rewrite, plan: CompactionPlan
) -> zarr.Array[Any]:
    source = history.wide[array.name]
    bounded = plan.error is not None and array.name == "weights"
    lossless = "compact" if plan.preset == "bounded" else plan.preset
    preset, error = ("bounded", plan.error) if bounded else (lossless, None)
    return group.create_array(
        array.name,
        shape=array.shape,
        chunks=array.chunk,
        shards=array.shard,
        dtype=source.dtype,
        **wide_codecs(preset, error, source.dtype),
        **_kept(source),
        # Chunks of nothing but the fill value too: then a chunk that is missing is damage.
        config={"write_empty_chunks": True},
    )


def _kept(source: zarr.Array[Any]) -> dict[str, Any]:
    metadata: Any = source.metadata
    return {
        "fill_value": source.fill_value,
        "dimension_names": metadata.dimension_names,
        "attributes": dict(source.attrs),
    }


def _write_short(group: zarr.Group, source: zarr.Group, name: str, values: Values) -> None:
    """Copy an array of one axis, in its own chunks and codecs."""
    array: Any = source[name]
    copy = group.create_array(
        name,
        shape=values.shape,
        chunks=array.chunks,
        dtype=array.dtype,
        filters=array.filters,
        serializer=array.serializer,
        compressors=array.compressors,
        **_kept(array),
        config={"write_empty_chunks": True},
    )
    copy[:] = values
