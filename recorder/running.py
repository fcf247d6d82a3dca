"""Running somebody else's script in this process, as Python itself would run it."""

from __future__ import annotations

import builtins
import contextlib
import importlib.util
import re
import runpy
import signal
import sys
import threading
import traceback
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from weightcast.store import InputNotFoundError, UsageError, WeightcastError


@contextlib.contextmanager
def terminated_as_exit() -> Iterator[None]:
    """End a script on SIGTERM as on ``sys.exit``, so that what is in memory is written.

    Python itself would end at once. A script that handles the signal replaces this.
    """

    def stop(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return
    kept = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, kept)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait for the end of something that must not be half done."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    kept = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    kept = {n: handler for n, handler in kept.items() if callable(handler)}
    for number in kept:
        signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
        for sent in came:
            signal.raise_signal(sent)


def script_runner(argv: Sequence[str]) -> Callable[[], object]:
    """Check a script's command line and return a function that runs it as ``__main__``.

    Raises
    ------
    UsageError, InputNotFoundError
        If it is empty, names an interpreter, or there is no such file.
    """
    if not argv or list(argv) == ["-m"]:
        raise UsageError("give a training script after '--', such as: -- train.py --epochs 3")
    if argv[0] == "-m":
        folder = str(Path.cwd())
        _require_module(argv[1], folder)
        return lambda: _run_as_main(_run_module, argv[1], argv[1:], folder)
    script = Path(argv[0]).absolute()
    if re.fullmatch(r"python[0-9.]*", script.name):
        raise UsageError(f"give the script itself, without the interpreter: got {argv[0]!r}")
    if not script.is_file():
        raise InputNotFoundError(f"no script {argv[0]!r}: check the path")
    return lambda: _run_as_main(_run_file, str(script), argv, str(script.resolve().parent))


def _require_module(name: str, folder: str) -> None:
    kept = sys.path[:]
    sys.path[:] = [folder, *sys.path[1:]]
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        found = None
    finally:
        sys.path[:] = kept
    if found is None:
        raise InputNotFoundError(f"no module {name!r}: check its name, and the folder you are in")


def _run_as_main(
    run: Callable[[str], object], target: str, argv: Sequence[str], folder: str
) -> None:
    """Run a file or module with the argv and sys.path[0] that Python itself would give it."""
    kept = sys.argv, sys.path[:]
    sys.argv, sys.path[:] = list(argv), [folder, *sys.path[1:]]
    try:
        run(target)
    finally:
        sys.argv, sys.path[:] = kept


def _run_module(name: str) -> None:
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def _run_file(path: str) -> None:
    """Run a file as Python would: `runpy.run_path` would make ``sys.argv[0]`` the full path."""
    main = types.ModuleType("__main__")
    main.__file__ = path
    main.__dict__["__builtins__"] = builtins
    code = compile(Path(path).read_bytes(), path, "exec", dont_inherit=True)
    kept = sys.modules["__main__"]
    sys.modules["__main__"] = main  # where pickle and spawned workers look for its functions
    try:
        exec(code, main.__dict__)  # noqa: S102 - to run the user's script is what we are asked for
    finally:
        sys.modules["__main__"] = kept


def exit_code(run: Callable[[], object]) -> tuple[int, str]:
    """Run a script and say how Python would have exited, printing what Python would print."""
    try:
        run()
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return stop.code or 0, ""
        print(stop.code, file=sys.stderr)
        return 1, ""
    except WeightcastError:
        raise
    except KeyboardInterrupt:
        return 130, "KeyboardInterrupt"
    except Exception as error:  # somebody else's script may raise anything
        traceback.print_exception(error.with_traceback(_own_frames(error)))
        return 1, " ".join(f"{type(error).__name__}: {error}".split())
    return 0, ""


def _own_frames(error: BaseException) -> Any:
    """The traceback from the script's first frame on, without ours and runpy's."""
    frame = error.__traceback__
    while frame is not None:
        file = frame.tb_frame.f_code.co_filename
        if file not in (
            __file__,
            runpy.__file__,
            "<frozen runpy>",
            "<frozen importlib._bootstrap>",
        ):
            return frame
        frame = frame.tb_next
    return None
