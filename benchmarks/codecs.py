"""What the codec presets reach on real histories, beside other settings: size, speed, error.

``python benchmarks/codecs.py --data DIR``: MNIST's IDX files. Trains the paper's N0 with three
optimizers, and takes blocks of 64 steps, early, midway and late, through Zarr's codecs, one chunk
at a time. Bytes are per float32 value; speed is gigabytes of float32 a second of CPU time, with the
checksum, and with the transposing where there is one; the arms take turns at each block.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import torch
import zarr
from common import Training, flat, mnist
from rich.console import Console
from rich.table import Table
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.codecs.numcodecs import Delta, FixedScaleOffset, PCodec
from zarr.core.array_spec import ArrayConfig
from zarr.core.buffer import default_buffer_prototype
from zarr.core.buffer.cpu import NDBuffer
from zarr.storage import MemoryStore

from weightcast.store.codecs import wide_codecs
from weightcast.store.layout import chunk_shape
from weightcast.store.transpose import parameter_major

BLOCK = 64
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "Adam 1e-4": lambda parameters: torch.optim.Adam(parameters, lr=1e-4),
    "SGD 1e-2": lambda parameters: torch.optim.SGD(parameters, lr=1e-2),
    "momentum 0.9": lambda parameters: torch.optim.SGD(parameters, lr=1e-2, momentum=0.9),
}
Codecs = Callable[[float], dict[str, Any]]  # of the error bound; keyword arguments of create_array


@dataclass
class Arm:
    """One way to store, and what was measured of it."""

    codecs: Codecs
    parameter_major: bool = True
    lossless: bool = True
    bytes: dict[str, list[float]] = field(default_factory=dict)  # per value, by optimizer
    encode: list[float] = field(default_factory=list)  # GB/s, one a block
    decode: list[float] = field(default_factory=list)
    error: float = 0.0  # largest, over the bound


def checked(*compressors: Any, **others: Any) -> Codecs:
    """The same codecs whatever the bound, and a checksum."""
    return lambda _: {"compressors": [*compressors, Crc32cCodec()], **others}


def blosc(cname: str, clevel: int, shuffle: str) -> Codecs:
    """Blosc on float32."""
    return checked(BloscCodec(cname=cname, clevel=clevel, shuffle=shuffle, typesize=4))


def pcodec(level: int, page: int = 262144) -> Codecs:
    """PCodec; the page is numcodecs' default."""
    return checked(serializer=PCodec(level=level, equal_pages_up_to=page))


def standard_bounded(bound: float) -> dict[str, Any]:
    """Rounding to a step of twice the bound from codecs that numcodecs has."""
    scale = FixedScaleOffset(offset=0, scale=0.5 / bound, dtype="<f4", astype="<i4")
    zstd = BloscCodec(cname="zstd", clevel=1, shuffle="shuffle", typesize=4)
    return {"filters": [scale, Delta(dtype="<i4")], "compressors": [zstd, Crc32cCodec()]}


def arms() -> dict[str, Arm]:
    """The presets, and what else they might be."""
    preset = lambda name, error: wide_codecs(name, error, "float32")  # noqa: E731
    return {
        "raw": Arm(checked()),
        "fast": Arm(lambda _: preset("fast", None)),
        "Blosc lz4 5 bitshuffle": Arm(blosc("lz4", 5, "bitshuffle")),
        "the same, [T, P]": Arm(blosc("lz4", 5, "bitshuffle"), parameter_major=False),
        "compact": Arm(lambda _: preset("compact", None)),
        "Blosc zstd 5 shuffle": Arm(blosc("zstd", 5, "shuffle")),
        "PCodec 4": Arm(pcodec(4)),
        "PCodec 8": Arm(pcodec(8)),
        "PCodec 8, pages 32768": Arm(pcodec(8, 32768)),
        "bounded": Arm(lambda bound: preset("bounded", bound), lossless=False),
        "scale, Delta, zstd 1": Arm(standard_bounded, lossless=False),
    }


def record(
    data: Any, make: Callable[[Any], torch.optim.Optimizer], steps: int
) -> tuple[list, float]:
    """Blocks of rows [64, P] early, midway and late in a run, and the median total change."""
    training = Training(*data)
    training.optimizer = make(training.model.parameters())
    first = flat(training.model).copy()
    blocks, kept = steps // BLOCK, []
    for block in range(blocks):
        rows = np.empty((BLOCK, first.size), np.float32)
        for i in range(BLOCK):
            rows[i] = flat(training.model)
            training.run(1)
        if block in (0, blocks // 2, blocks - 1):
            kept.append(rows)
    return kept, float(np.median(np.abs(flat(training.model) - first)))


class Pipeline:
    """The codecs of an arm as Zarr runs them, on one chunk at a time, without a store."""

    def __init__(self, shape: tuple[int, int], codecs: dict[str, Any]) -> None:
        group = zarr.create_group(MemoryStore())
        array = group.create_array("x", shape=shape, chunks=shape, dtype="f4", **codecs)
        inner = array.async_array
        self._pipeline, self._loop = inner.codec_pipeline, asyncio.new_event_loop()
        prototype = default_buffer_prototype()
        self._spec = inner.metadata.get_chunk_spec((0, 0), ArrayConfig.from_dict({}), prototype)

    def encode(self, chunk: np.ndarray) -> Any:
        """Stored bytes of a chunk."""
        return self._run(self._pipeline.encode, NDBuffer.from_numpy_array(chunk))

    def decode(self, stored: Any) -> np.ndarray:
        """Chunk of stored bytes."""
        return self._run(self._pipeline.decode, stored).as_numpy_array()

    def _run(self, call: Any, item: Any) -> Any:
        (result,) = self._loop.run_until_complete(call([(item, self._spec)]))
        return result


def measure(arm: Arm, optimizer: str, rows: np.ndarray, bound: float) -> None:
    """Encode a block of rows chunk by chunk, decode it, and note what that took."""
    size = rows.shape[1]
    wide, _ = chunk_shape(size, BLOCK)
    pipeline = Pipeline((wide, BLOCK) if arm.parameter_major else (BLOCK, wide), arm.codecs(bound))
    chunk = np.full((wide, BLOCK), np.nan, np.float32)
    encode = decode = stored = 0.0
    for low in range(0, size, wide):
        part = rows[:, low : low + wide]
        count = part.shape[1]
        chunk[count:] = np.nan  # as Zarr pads the last chunk
        other = np.ascontiguousarray(chunk.T) if not arm.parameter_major else chunk
        begin = time.process_time()
        if arm.parameter_major:
            parameter_major(part, chunk[:count])
        else:
            other[:, :count] = part
        encoded = pipeline.encode(other)
        middle = time.process_time()
        back = pipeline.decode(encoded)
        decode += time.process_time() - middle
        encode += middle - begin
        stored += len(encoded)
        back = (back if arm.parameter_major else back.T)[:count]
        arm.error = max(arm.error, float(np.abs(back - part.T.astype(float)).max()) / bound)
    arm.bytes.setdefault(optimizer, []).append(stored / rows.size)
    arm.encode.append(rows.nbytes / encode / 1e9)
    arm.decode.append(rows.nbytes / decode / 1e9)


def transposing(rows: np.ndarray, repeats: int) -> Table:
    """One block [64, P] into chunks [16384, 64], by `parameter_major` and by plain numpy."""
    out = np.empty((chunk_shape(rows.shape[1], BLOCK)[0], BLOCK), np.float32)

    def plain(part: np.ndarray, chunk: np.ndarray) -> None:
        chunk[...] = part.T

    speeds: dict[str, list[float]] = {"parameter_major": [], "out[...] = rows.T": []}
    for _ in range(repeats):
        for name, call in zip(speeds, (parameter_major, plain), strict=True):
            begin = time.process_time()
            for low in range(0, rows.shape[1], len(out)):
                part = rows[:, low : low + len(out)]
                call(part, out[: part.shape[1]])
            speeds[name].append(rows.nbytes / (time.process_time() - begin) / 1e9)
    table = Table("transposing", "GB/s, median and spread")
    for name, values in speeds.items():
        table.add_row(name, spread(values))
    return table


def spread(values: list[float]) -> str:
    """Median, and the range."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    """Record, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/mnist"))
    parser.add_argument("--steps", type=int, default=1024)
    options = parser.parse_args()
    numcodecs.blosc.set_nthreads(1)
    data, measured = mnist(options.data), arms()
    for optimizer, make in OPTIMIZERS.items():
        blocks, change = record(data, make, options.steps)
        bound = 1e-3 * change
        print(f"{optimizer}: {options.steps} steps, median change {change:.3g}, bound {bound:.3g}")
        for rows in blocks:
            for arm in measured.values():
                with np.errstate(invalid="ignore"):  # FixedScaleOffset casts the padding's NaN
                    measure(arm, optimizer, rows, bound)
    table = Table("codec", *OPTIMIZERS, "encode GB/s", "decode GB/s", "max error / bound")
    for name, arm in measured.items():
        if arm.lossless and arm.error:
            raise SystemExit(f"{name} should be lossless, and is not")
        sizes = [f"{statistics.mean(arm.bytes[optimizer]):.3f}" for optimizer in OPTIMIZERS]
        error = "exact" if arm.lossless else f"{arm.error:.4f}"
        table.add_row(name, *sizes, spread(arm.encode), spread(arm.decode), error)
    Console(width=130).print(table, transposing(blocks[-1], 9))


if __name__ == "__main__":
    main()
