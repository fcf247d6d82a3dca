"""What a history of a billion weights would cost on 64 workers, from rates that were measured."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from growth import FIXED, STEPS, Grown, fit
from probing import Probe

from weightcast.store.layout import chunk_shape

WEIGHTS, WORKERS = 10**9, 64
THREADS, PROCESSES = f"threads, {FIXED:,} samples", f"processes, {FIXED:,} samples"


def calculation(grown: Sequence[Grown], long: Sequence[Probe], shape: tuple[int, int]) -> list[str]:
    """Lines that say it, with their formulas.

    Parameters
    ----------
    grown : sequence of Grown
        Histories of 64 steps; the largest gives the rates, all of them the driver's memory.
    long : sequence of Probe
        N0's history, warm, by two workers in threads.
    shape : (int, int)
        Its weights and steps.
    """
    last = grown[-1]
    lines = [
        f"P = {WEIGHTS:,} weights, W = {WORKERS} workers, each as fast as one of the two here; "
        "storage that keeps up; the formulas:",
        "  bytes decoded a pass = 4 P T",
        "  seconds = c P / W, with c = 2 workers x measured seconds / measured weights",
        "  bytes read = measured bytes read / weight x P; storage must give bytes read / seconds",
    ]
    of_64 = last.probes[THREADS]
    for steps, weights, probes, stored in (
        (STEPS, last.weights, of_64, last.stored),
        (shape[1], shape[0], long, None),
    ):
        seconds = statistics.median(p.seconds for p in probes)
        cost = 2 * seconds / weights
        whole = cost * WEIGHTS / WORKERS
        read = statistics.median(p.read for p in probes) / weights * WEIGHTS
        passes = f", {read / WEIGHTS * weights / stored:.1f} x what is stored" if stored else ""
        lines.append(
            f"T = {steps}: 4 P T = {4 * WEIGHTS * steps / 1e9:,.0f} GB a pass; c = 2 x "
            f"{seconds:.3g} s / {weights / 1e6:.3g} M = {cost * 1e6:.3g} s a M weights; seconds = "
            f"{cost * 1e6:.3g} x {WEIGHTS / 1e6:,.0f} / {WORKERS} = {whole:,.1f} s; read "
            f"{read / 1e9:,.0f} GB{passes}: {read / whole / 1e9:,.1f} GB/s for all workers"
        )
    scratch = max(p.most for p in of_64) / last.weights
    lines.append(
        f"scratch = {scratch:.2f} bytes a weight (on disk at the peak for {last.weights / 1e6:g} M "
        f"weights, with the dataset of {FIXED:,} samples) x P = {scratch * WEIGHTS / 1e9:,.1f} GB"
    )
    used = [max(p.driver.anonymous for p in g.probes[PROCESSES]) for g in grown]
    start, slope, _ = fit([g.weights for g in grown], used)
    lines.append(
        f"driver's memory = a + b P = {start / 1e6:.0f} MB + {slope:.2f} bytes x P = "
        f"{(start + max(slope, 0) * WEIGHTS) / 1e9:,.2f} GB, by a line through "
        f"{', '.join(f'{u / 1e6:.0f}' for u in used)} MB of anonymous memory"
    )
    band = chunk_shape(WEIGHTS, STEPS)[0]
    worker = max(p.worker.anonymous for p in last.probes[PROCESSES])
    chunk, largest = (4 * n * STEPS for n in (last.chunk, band))
    lines.append(
        f"memory of a worker = what it had + the larger chunk: at {last.weights / 1e6:g} M weights "
        f"{worker / 1e6:.0f} MB anonymous with chunks of {chunk / 1e6:.1f} MB; of P weights they "
        f"are {band:,} x {STEPS} (at most 1,000 files a block), {largest / 1e6:.0f} MB: at least "
        f"{(worker + largest - chunk) / 1e6:.0f} MB"
    )
    return lines
