"""Training runs to be killed: a warm process that forks them, and kills them at a given moment.

Run as a script it reads one job a line, as JSON, and answers with one line. A run costs no imports
then, so that hundreds of kills are affordable. The weights of step s are ``base + s``, which a test
computes for itself; every row, and every value of it, differs from all others.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

DONE, LOGGED, DRAIN, PHASE = range(4)  # what a run says of itself, in shared memory
CLOSING, CLOSED = 1, 2
SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER: a drain process whose trainer died becomes our child
SECONDS = 60  # for one job: a run that hangs must not hang the test


def base_weights(size: int) -> np.ndarray:
    """Weights before the first step, float32 [size], in [0, 1)."""
    return np.random.default_rng(size).random(size, np.float32)


def make_model(size: int) -> Any:
    """A module of one parameter, and of a buffer that says which step it is at."""
    import torch

    model = torch.nn.Module()
    model.w = torch.nn.Parameter(torch.from_numpy(base_weights(size)))
    model.register_buffer("seen", torch.zeros((), dtype=torch.int64))
    return model


def take_step(model: Any, base: Any, step: int) -> None:
    """What an optimizer would do."""
    import torch

    torch.add(base, step, out=model.w.data)
    model.seen.fill_(step)


def loss_at(step: int) -> float:
    return 1 / (step + 1)


class Nursery:
    """The warm process; use as a context manager."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.communicate()

    def run(self, path: Path, **job: Any) -> dict[str, Any]:
        """Run a job to the end of all its processes; see `main` for what it takes."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"path": str(path), **job}) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "a run hung, or the nursery died"
        return json.loads(answer)


class Warm:
    """Stands for ``subprocess.Popen``: the drain process is one that has imported its modules.

    It was forked from the trainer before that did anything, has its own session and the same files,
    and so lives and dies as the real one does.
    """

    page: np.ndarray

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX)
        self.pid = os.fork()
        if self.pid == 0:
            ours.close()
            _become_drain(theirs)
        theirs.close()
        self.socket = ours

    def __call__(self, arguments: list[str], *, stdin: int, pass_fds: list[int], **_: Any) -> Self:
        words = [*arguments[arguments.index("weightcast.store.drain") + 1 :]]
        socket.send_fds(self.socket, [json.dumps(words).encode()], [stdin, *pass_fds])
        self.socket.close()
        self.returncode: int | None = None
        self.page[DRAIN] = self.pid
        return self

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self) -> int:
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode


def _become_drain(asked: socket.socket) -> None:
    code = 70
    try:
        text, (stdin, descriptor), _, _ = socket.recv_fds(asked, 65536, 2)
        history, _, parent = json.loads(text)
        os.setsid()
        os.dup2(stdin, 0)
        os.close(stdin)
        asked.close()
        from weightcast.store.drain import main

        code = main([history, str(descriptor), parent])
    except ValueError:
        code = 0  # no fds: the trainer ended without a drain process
    finally:
        os._exit(code)


def _train(job: dict[str, Any], page: np.ndarray, told: mmap.mmap) -> None:
    import torch

    from weightcast.recorder import Recorder, feed
    from weightcast.store import WeightcastError

    if job.get("real"):
        start = subprocess.Popen

        def noted(*arguments: Any, **options: Any) -> Any:
            process = start(*arguments, **options)
            page[DRAIN] = process.pid
            return process

        feed.subprocess.Popen = noted
    else:
        Warm.page = page
        feed.subprocess.Popen = Warm()
    feed.START_SECONDS = job.get("drain_after", feed.START_SECONDS)
    feed.WATCH_SECONDS = job.get("watch", 0.01)
    model = make_model(job["size"])
    base, first = torch.from_numpy(base_weights(job["size"])), job.get("first", 0)
    if first:
        take_step(model, base, first)
    try:
        with Recorder(model, job["path"], **job.get("options", {})) as recorder:
            page[DONE] = first
            for step in range(first + 1, first + job["steps"] + 1):
                take_step(model, base, step)
                recorder()
                page[DONE] = step
                if step == job.get("act_at"):
                    ACTIONS[job["act"]](recorder)
                if job.get("log", True):
                    recorder.log(loss=loss_at(step))
                    page[LOGGED] = step
                time.sleep(job.get("pace", 0))
            page[PHASE] = CLOSING
    except WeightcastError as error:
        told[1024 : 1024 + len(str(error).encode()[:2000])] = str(error).encode()[:2000]
    page[PHASE] = CLOSED


def _fork(child: Callable[[Any], object]) -> Callable[[Any], None]:
    """An action: fork as a data loader does; what the child does may end in any way."""

    def action(recorder: Any) -> None:
        if os.fork() == 0:
            try:
                child(recorder)
            finally:
                os._exit(0)

    return action


def _outlive(_: Any) -> None:
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(0.01)
    time.sleep(1.0)


def _leave(recorder: Any) -> None:
    """Leave the ``with`` block, as an exception in a forked child does."""
    recorder.__exit__(SystemExit, SystemExit(), None)


def _train_on(recorder: Any) -> None:
    for _ in range(5):
        recorder()
        recorder.log(loss=-1.0)


ACTIONS: dict[str, Callable[[Any], object]] = {
    "exit": lambda _: os._exit(3),
    "raise": lambda _: sys.exit(3),
    "terminate": lambda _: os.kill(os.getpid(), signal.SIGTERM),
    "interrupt": lambda _: os.killpg(0, signal.SIGINT),
    "child exits": _fork(lambda _: None),
    "child leaves": _fork(_leave),
    "child trains": _fork(_train_on),
    "child drops": _fork(lambda recorder: recorder.__dict__.clear()),
    "child outlives": _fork(_outlive),
}


def _run(job: dict[str, Any]) -> dict[str, Any]:
    """Fork a trainer; kill whom the job says, when it says; wait until all processes are gone."""
    signal.alarm(SECONDS)
    told = mmap.mmap(-1, 4096)
    page = np.frombuffer(told, np.int64, 8)
    page[DONE] = page[LOGGED] = -1
    trainer = os.fork()
    if trainer == 0:
        signal.alarm(0)
        os.dup2(2, 1)  # answers are the nursery's alone
        os.setpgid(0, 0)
        try:
            _train(job, page, told)
        except (KeyboardInterrupt, SystemExit):
            os._exit(3)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    signal.signal(signal.SIGALRM, lambda *_: (os.kill(trainer, signal.SIGKILL), sys.exit(1)))
    kill = job.get("kill")
    hit = _strike(job, page, trainer) if kill else False
    codes = {}
    with suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, 0)
            codes[pid] = os.waitstatus_to_exitcode(status)
    signal.alarm(0)
    return {
        "done": int(page[DONE]),
        "logged": int(page[LOGGED]),
        "drain": int(page[DRAIN]),
        "phase": int(page[PHASE]),
        "code": codes.get(trainer),
        "hit": hit,
        "error": bytes(told[1024:]).split(b"\0", 1)[0].decode(),
    }


def _strike(job: dict[str, Any], page: np.ndarray, trainer: int) -> bool:
    """Wait for the moment, and kill; False if the run ended before it came."""
    at, needs_drain = job.get("at", -1), job["kill"] != "trainer"

    def came() -> bool:
        if needs_drain and not page[DRAIN]:
            return False
        return page[PHASE] >= CLOSING if at == "closing" else page[DONE] >= at

    while not came():
        if os.waitid(os.P_PID, trainer, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return False
        time.sleep(2e-4)
    end = time.perf_counter() + job.get("delay", 0)
    while time.perf_counter() < end:
        time.sleep(1e-4)
    drain = int(page[DRAIN])
    victims = {"trainer": [trainer], "drain": [drain], "both": [trainer, drain]}[job["kill"]]
    for pid in victims[:: job.get("order", 1)]:
        with suppress(ProcessLookupError):  # it has just ended
            os.kill(pid, signal.SIGKILL)
    return True


def main() -> None:
    import torch

    import weightcast.recorder
    import weightcast.store.drain  # noqa: F401 - so that it is imported once

    torch.set_num_threads(1)
    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    for line in sys.stdin:
        print(json.dumps(_run(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
