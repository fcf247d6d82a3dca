"""What commands share: options, tables and progress bars."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from weightcast.predictor import Errors

Command = TypeVar("Command", bound=Callable[..., Any])


def output_option(help_text: str) -> Callable[[Command], Command]:
    """Add ``-o OUTPUT`` and ``--overwrite`` to a command."""

    def decorate(command: Command) -> Command:
        command = click.option(
            "--overwrite", is_flag=True, help="Replace the output if it exists."
        )(command)
        return click.option("-o", "--output", required=True, type=click.Path(), help=help_text)(
            command
        )

    return decorate


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
seed_option = click.option("--seed", default=0, show_default=True, help="Seed of the randomness.")


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """Show progress bars on stderr; yields a function to call with (what, done, total)."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    layout = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeRemainingColumn(),
    )
    bars = Progress(*layout, console=Console(stderr=True))
    tasks: dict[str, Any] = {}

    def advance(what: str, done: int, total: int) -> None:
        bars.start()  # only now: an error before any work stays a single line
        if what not in tasks:
            tasks[what] = bars.add_task(what, total=total)
        bars.update(tasks[what], completed=done, total=total)

    try:
        yield advance
    finally:
        if tasks:
            bars.stop()


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str = "") -> None:
    """Print a table on stdout: the first column left-aligned, the others right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title or None, box=box.SIMPLE_HEAD, title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))  # names are text, not markup
    console = Console()
    if not console.is_terminal:  # a file or a pipe has no width to fit
        console = Console(width=Console(width=1000).measure(table).maximum)
    console.print(table)


def print_errors(groups: Sequence[Errors], title: str) -> None:
    """Print forecast errors, times 1000 as the paper reports them."""
    rows = [
        (
            e.group,
            f"{e.count:,}",
            *(f"{1000 * v:.4g}" for v in (e.forecaster, e.last_value, e.linear_fit)),
            f"{e.skill:+.1%}",
        )
        for e in groups
    ]
    columns = ("L1 error x 1000", "forecasts", "forecaster", "last value", "linear fit", "skill")
    print_table(columns, rows, title)
    click.echo("skill: 1 - forecaster / last value; above 0 is better than no forecast at all")


def megabytes(size: float) -> str:
    """A size in bytes as text, such as ``1.5 MB``."""
    return f"{size / 1e6:,.1f} MB" if size < 1e9 else f"{size / 1e9:,.2f} GB"
