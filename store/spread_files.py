"""How far every weight moved, written as a Zarr group or a Parquet file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import zarr

from weightcast.store.errors import UsageError
from weightcast.store.extras import require_pyarrow
from weightcast.store.layout import ATTRIBUTE
from weightcast.store.output import check_writable, refuse_existing, replacing
from weightcast.store.spread import Measure, VariationReport
from weightcast.store.spread_scratch import Measured

FORMAT = 1
CHUNK = 1 << 20  # weights of a chunk, or of a row group


def check_output(path: str | Path, *, overwrite: bool, inputs: Sequence[str | Path]) -> None:
    """Find out before any work whether the output can be written.

    Raises
    ------
    UsageError
        If it is neither called .zarr nor .parquet.
    OutputExistsError
        If it is taken, and may not be replaced.
    MissingExtraError
        If pyarrow is needed and not installed.
    """
    suffix = Path(path).suffix
    if suffix not in (".zarr", ".parquet"):
        raise UsageError(f"the output must be called .zarr or .parquet: got {path}")
    kind: Any = "variation" if suffix == ".zarr" else "file"
    check_writable(refuse_existing(path, overwrite=overwrite, kind=kind, inputs=inputs))
    if suffix == ".parquet":
        require_pyarrow()


def write_output(
    path: Path, report: VariationReport, measured: Measured, *, overwrite: bool
) -> None:
    """Write the measures of every weight, with the report; in memory, a million weights at a time.

    Parameters
    ----------
    path : Path
        As `check_output` accepted it.
    report : VariationReport
    measured : Measured
    overwrite : bool
        Replace what stands there.

    Raises
    ------
    OutputExistsError
        If it was made meanwhile, and may not be replaced.
    """
    tensors = [
        p | {"origin": o} for p, o in zip(measured.table.to_json(), measured.origins, strict=True)
    ]
    header = {"variation": FORMAT, **report.to_json(), "tensors": tensors}
    with replacing(path, new=not overwrite) as temporary:
        if path.suffix == ".zarr":
            _write_zarr(temporary, header, measured)
        else:
            _write_parquet(temporary, header, measured)


def _blocks(measured: Measured) -> Iterator[tuple[int, int]]:
    size = measured.table.size
    return ((low, min(low + CHUNK, size)) for low in range(0, size, CHUNK))


def _write_zarr(path: Path, header: dict[str, Any], measured: Measured) -> None:
    group = zarr.create_group(path, zarr_format=3, attributes={ATTRIBUTE: header})
    for measure in get_args(Measure):
        array = group.create_array(
            measure,
            shape=(measured.table.size,),
            chunks=(min(CHUNK, measured.table.size),),
            dtype=measured.dtype,
            dimension_names=("parameter",),
            fill_value=np.nan,
        )
        for low, high in _blocks(measured):
            array[low:high] = measured.values(measure, low, high)


def _write_parquet(path: Path, header: dict[str, Any], measured: Measured) -> None:
    arrow, parquet = require_pyarrow()
    table = measured.table
    names, kinds = [p.name for p in table], list(dict.fromkeys(p.kind for p in table))
    kind_of = np.array([kinds.index(p.kind) for p in table])
    offsets = np.array([p.offset for p in table])

    def labels(codes: Any, texts: list[Any]) -> Any:
        return arrow.DictionaryArray.from_arrays(codes.astype(np.int32), arrow.array(texts))

    def rows(low: int, high: int) -> Any:
        places = np.arange(low, high)
        tensors = measured.tensors_of(places)
        columns = {
            "name": labels(tensors, names),
            "index": arrow.array(places - offsets[tensors]),
            "kind": labels(kind_of[tensors], kinds),
        }
        for measure in get_args(Measure):
            values = measured.values(measure, low, high)
            columns[measure] = arrow.array(values, from_pandas=True)  # NaN becomes null
        return arrow.table(columns)

    schema = rows(0, 1).schema.with_metadata({ATTRIBUTE: json.dumps(header)})
    with parquet.ParquetWriter(path, schema) as writer:
        for low, high in _blocks(measured):
            writer.write_table(rows(low, high))
