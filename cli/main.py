"""The ``weightcast`` command: its groups, and how errors become one line and an exit code."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import click

from weightcast.cli.compare import compare
from weightcast.cli.console import echo_line
from weightcast.cli.dataset import dataset
from weightcast.cli.demo import demo
from weightcast.cli.early import early
from weightcast.cli.evaluate import evaluate
from weightcast.cli.exchange import export, import_
from weightcast.cli.fit import fit
from weightcast.cli.history import info, record, recover
from weightcast.cli.jump import jump
from weightcast.cli.maintain import compact, verify
from weightcast.cli.prune import prune
from weightcast.cli.reproduce import reproduce
from weightcast.cli.rewind import rewind
from weightcast.cli.run import run
from weightcast.cli.sharing import card, pull, push
from weightcast.cli.variation import variation


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("weightcast"), prog_name="weightcast")
@click.pass_context
def cli(context: click.Context) -> None:
    """Record the weight history of a PyTorch run, learn from it, and jump ahead."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


for command in (
    record,
    recover,
    info,
    verify,
    compact,
    variation,
    early,
    dataset,
    fit,
    evaluate,
    compare,
    card,
    push,
    pull,
    jump,
    run,
    prune,
    rewind,
    export,
    import_,
    demo,
    reproduce,
):
    cli.add_command(command)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; those of the process by default.

    Returns
    -------
    int
        Exit code: 0, 1 for a failure, 2 for bad usage, 130 if interrupted; `record` and
        `run` give the training script's own.
    """
    try:
        with _plain_warnings():
            result = cli.main(args=argv, prog_name="weightcast", standalone_mode=False)
    except click.Abort:
        return _fail("interrupted", 130)
    except click.ClickException as error:
        return _fail(error.format_message(), error.exit_code)
    except OSError as error:
        return _fail(str(error), getattr(error, "exit_code", 1))
    except Exception as error:
        from weightcast.store import WeightcastError

        if not isinstance(error, WeightcastError):
            raise
        return _fail(str(error), error.exit_code)
    return result if isinstance(result, int) else 0


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Print warnings that a user can act on as one line, without the code that they come from."""
    show = warnings.showwarning

    def show_plain(message: Any, category: type[Warning], *place: Any, **rest: Any) -> None:
        if category.__name__ in ("WeightcastWarning", "ConvergenceWarning"):  # by name: no import
            echo_line(f"warning: {' '.join(str(message).split())}")
        else:
            show(message, category, *place, **rest)

    warnings.showwarning = show_plain
    try:
        yield
    finally:
        warnings.showwarning = show


def _fail(message: str, exit_code: int) -> int:
    echo_line(message)
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
