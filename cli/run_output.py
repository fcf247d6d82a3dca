"""Where ``weightcast run`` writes: checked before the script runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click


def check_output(
    command: tuple[str, ...], options: dict[str, Any], inputs: Sequence[str] = ()
) -> None:
    """Refuse options that need others, and a file that is taken."""
    from pathlib import Path

    from weightcast.store.output import check_writable, refuse_existing

    if options["record"] is None and options["schedule"] is not None:
        raise click.UsageError("--schedule goes with --record")
    if options["overwrite"] and options["record"] is options["json_path"] is None:
        raise click.UsageError("--overwrite goes with --record or --json")
    if options["json_path"] is not None:
        path = Path(options["json_path"]).absolute()  # the script may change its folder
        if options["record"] and path == Path(options["record"]).absolute():
            raise click.UsageError("--record and --json must name different outputs")
        read = [*inputs, *(command[:1] if command[0] != "-m" else ())]
        beside = [name for name in read if Path(name).exists()]  # some forecasters have names only
        beside += [options["record"]] if options["record"] else []
        refuse_existing(path, overwrite=options["overwrite"], kind="file", inputs=beside)
        check_writable(path)
        options["json_path"] = path


def recording_options(
    command: tuple[str, ...], options: dict[str, Any], **about: Any
) -> dict[str, Any] | None:
    """Options of the recorder; who reads the history must know what was done to the run."""
    if options["record"] is None:
        return None
    return {
        "schedule": options["schedule"],
        "overwrite": options["overwrite"],
        "model": options["model"],
        "metadata": {"command": list(command), **about},
    }
