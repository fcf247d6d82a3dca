"""A Dask cluster from the command line, as a user starts it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from scheduling_jobs import searching
from support import eventually

OPTIONS = {
    "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1",  # workers that a task may take with it
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "10s",  # to a worker that is gone: 30 by default
}


class Processes:
    """A scheduler and workers as a user starts them, without nannies.

    Parameters
    ----------
    folder : Path
        Where they stand, and log.
    path : Path, optional
        Where the scheduler looks for modules first.
    """

    def __init__(self, folder: Path, path: Path | None = None) -> None:
        self.folder, self.started = folder, list[subprocess.Popen[bytes]]()
        place = folder / "scheduler.json"
        self.scheduler = self.start(
            "scheduler",
            "--host",
            "127.0.0.1",
            "--port",
            "0",
            "--scheduler-file",
            str(place),
            path=path,
        )
        assert eventually(place.exists)
        assert eventually(lambda: place.read_text().rstrip().endswith("}"))
        self.address: str = json.loads(place.read_text())["address"]

    def start(self, kind: str, *options: str, path: Path | None = None) -> subprocess.Popen[bytes]:
        program = [sys.executable, "-m", f"distributed.cli.dask_{kind}"]
        command = [*program, "--dashboard-address", "127.0.0.1:0", *options]  # not a fixed port
        with (self.folder / f"{kind}{len(self.started)}.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                env=searching(*filter(None, [path])) | OPTIONS,
                cwd=self.folder,
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.started.append(process)
        return process

    def worker(self, path: Path | None = None) -> subprocess.Popen[bytes]:
        """Start one more worker, which finds modules in `path` first."""
        return self.start("worker", self.address, "--no-nanny", "--nthreads", "1", path=path)

    def end(self, *processes: subprocess.Popen[bytes]) -> None:
        for process in processes or self.started:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
