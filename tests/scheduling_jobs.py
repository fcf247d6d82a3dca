"""A job in a process of its own, on workers of any kind, to be interrupted or killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from support import eventually

SCRIPT = """\
import sys
import scheduling_tasks
from weightcast.store.scheduling import workers

if __name__ == "__main__":
    scheduler, folder = sys.argv[1:]
    try:
        with workers(scheduler, None if "://" in scheduler else 2) as started:
            started.run("wait", scheduling_tasks.wait_a_while, [(folder, i) for i in range(1000)])
    except KeyboardInterrupt:
        print("interrupted")
    except Exception as error:
        print(f"{type(error).__module__}.{type(error).__name__}: {error}")
"""


def searching(*folders: Path) -> dict[str, str]:
    """The environment of a process that looks for modules in these folders first."""
    here = [*map(str, folders), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, here))}


@contextmanager
def job(
    folder: Path, scheduler: str, ready: Callable[[], object] | None = None
) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Start it, and wait until its calls run, or until it is ready otherwise.

    Yields
    ------
    Popen, Path
        The process, and the folder where each call leaves a file, ``call.process``.
    """
    calls = folder / "calls"
    calls.mkdir()
    (folder / "script.py").write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, "-W", "error", folder / "script.py", scheduler, calls],
        env=searching(folder),
        text=True,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        started = ready or (lambda: any(calls.iterdir()))
        assert eventually(lambda: started() or process.poll() is not None)
        yield process, calls
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def workers_of(calls: Path) -> set[int]:
    """Processes that have run calls."""
    return {int(path.suffix[1:]) for path in calls.iterdir()}


def alive(process: int) -> bool:
    """Whether a process runs; one that ended and that nobody waited for does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
