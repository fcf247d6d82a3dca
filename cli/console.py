"""What commands share: options, tables and progress bars."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from weightcast.predictor import Errors
    from weightcast.store import Context

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


def plot_option(help_text: str) -> Callable[[Command], Command]:
    """Add ``--plot PICTURE`` to a command."""
    return click.option(
        "--plot",
        type=click.Path(),
        metavar="PICTURE",
        help=f"{help_text}: a .png, .svg or .pdf file; needs the extra 'plot'.",
    )


def parameter_options(verb: str) -> Callable[[Command], Command]:
    """Add ``--include`` and ``--exclude`` to a command that does this to parameters."""

    def decorate(command: Command) -> Command:
        command = click.option(
            "--exclude",
            multiple=True,
            metavar="GLOB",
            help=f"Do not {verb.lower()} these parameters.",
        )(command)
        return click.option(
            "--include", multiple=True, metavar="GLOB", help=f"{verb} only these parameters."
        )(command)

    return decorate


def list_option(name: str, help_text: str, default: str | None = None) -> Callable[..., Any]:
    """Add an option that takes numbers, separated by commas."""
    return click.option(
        name,
        callback=_numbers,
        metavar="A,B,...",
        default=default,
        show_default=default is not None,
        help=help_text,
    )


def _numbers(
    context: click.Context, option: click.Parameter, value: str | None
) -> tuple[float, ...]:
    """The numbers of an option; none if it is not given."""
    try:
        return tuple(float(part) for part in value.split(",")) if value is not None else ()
    except ValueError:
        raise click.BadParameter(f"must be numbers separated by commas: got {value!r}") from None


def workers_options(command: Command) -> Command:
    """Add ``--scheduler`` and ``--workers`` to a command."""
    command = click.option(
        "--workers", type=click.IntRange(min=1), help="Threads or processes; by default, the cores."
    )(command)
    return click.option(
        "--scheduler",
        metavar="WHERE",
        default="threads",
        show_default=True,
        help="Where tasks run: threads, processes, synchronous, or the address of a Dask "
        "scheduler, tcp://host:port; the result is the same.",
    )(command)


trust_option = click.option(
    "--trust",
    multiple=True,
    metavar="TYPE",
    help="Of a .skops file: load this type too (module.Class); you trust whoever made the file.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
seed_option = click.option("--seed", default=0, show_default=True, help="Seed of the randomness.")


def printable(text: object) -> str:
    r"""Text without characters that a terminal would obey: names in files may hold any.

    Examples
    --------
    >>> print(printable("w\x1b[31m\u2028 é"))
    w\x1b[31m\u2028 é
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))


def echo(text: object, *, err: bool = False) -> None:
    """Print lines that may hold names from files."""
    click.echo("\n".join(map(printable, str(text).split("\n"))), err=err)


def echo_line(text: object) -> None:
    """Print one line on stderr, as ``weightcast: ...``, whatever the text holds."""
    echo(f"weightcast: {' '.join(str(text).split())}", err=True)


def print_facts(facts: Iterable[tuple[str, object]]) -> None:
    """Print a line for each fact: its name, and what it is."""
    lines = [(printable(name), printable(value)) for name, value in facts]
    width = max((len(name) for name, _ in lines), default=0) + 2
    for name, value in lines:
        click.echo(f"{name:{width}}{value}")


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


def print_json(document: Any) -> None:
    """Print plain data as JSON; numbers that are not finite are an error."""
    import json

    click.echo(json.dumps(document, indent=2, allow_nan=False))


def print_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[object] | None],
    title: str = "",
    words: Collection[str] = (),
    wrapped: Collection[str] = (),
) -> None:
    """Print a table on stdout: the first column and those of `words` left-aligned, others right.

    A row that is None is a line between sections. Columns of `wrapped` take more lines where the
    terminal, or COLUMNS, is narrow.
    """
    import os

    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    heading = Text(printable(title)) if title else None
    table = Table(title=heading, box=box.SIMPLE_HEAD, title_justify="left")
    for i, column in enumerate(columns):
        side: Any = "right" if i and column not in words else "left"
        table.add_column(column, justify=side, no_wrap=column not in wrapped, overflow="fold")
    for row in rows:
        if row is None:
            table.add_section()
        else:  # names are text, not markup
            table.add_row(*(Text(printable(cell)) for cell in row))
    console, needed = Console(), Console(width=1000).measure(table).maximum
    # A file or a pipe has no width to fit; a narrow terminal folds lines, and cuts no number.
    fits = console.is_terminal or "COLUMNS" in os.environ
    cells = ([str(row[columns.index(name)]) for row in rows if row] for name in wrapped)
    spare = sum(max(max(map(len, texts), default=0) - 15, 0) for texts in cells)
    Console(width=max(min(console.width, needed), needed - spare) if fits else needed).print(table)


def print_errors(groups: Sequence[Errors], title: str) -> None:
    """Print forecast errors, times 1000 as the paper reports them; a dash where none is known."""
    rows: list[Sequence[object] | None] = []
    for i, e in enumerate(groups):
        if i and e.by != groups[i - 1].by:
            rows.append(None)
        means = (thousandths(v) for v in (e.forecaster, e.last_value, e.linear_fit))
        rows.append((e.group, f"{e.count:,}", *means, percent(e.skill)))
    columns = ("L1 error x 1000", "forecasts", "forecaster", "last value", "linear fit", "skill")
    print_table(columns, rows, title)
    click.echo("skill: 1 - forecaster / last value; above 0 is better than no forecast at all")


def print_linear_fit(contexts: Iterable[Context]) -> None:
    """Say which line the tables' "linear fit" is: once for each that there is."""
    from weightcast.predictor import linear_fit_name

    for name in dict.fromkeys(map(linear_fit_name, contexts)):
        if name is not None:
            echo(f"linear fit: the {name}")


def thousandths(error: float | None) -> str:
    """An error times 1000, or a dash."""
    return "-" if error is None else f"{1000 * error:.4g}"


def percent(skill: float | None) -> str:
    """A skill with its sign, or a dash where there is none.

    Examples
    --------
    >>> percent(0.123), percent(None), percent(float("nan"))
    ('+12.3%', '-', '-')
    """
    return "-" if skill is None or skill != skill else f"{skill:+.1%}"


def megabytes(size: float) -> str:
    """A size in bytes as text, such as ``1.5 MB``."""
    return f"{size / 1e6:,.1f} MB" if size < 1e9 else f"{size / 1e9:,.2f} GB"
