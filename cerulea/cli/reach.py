"""Which platform a command speaks to, and how tables look.

Kept:    --url goes before --home, and both before CERULEA_URL and CERULEA_HOME.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Option

from cerulea.cli.lines import add_names, put
from cerulea.cli.options import settings_of

if TYPE_CHECKING:
    from cerulea.client import Client

Url = Annotated[
    str | None, Option("--url", help="A running platform (CERULEA_URL), with CERULEA_KEY; else the one of this home.")
]
Key = Annotated[str | None, Option("--key", help="A repeat with the same key does nothing more.")]
# So that `-5` is read as what it is, an amount that is none, and answered as such.
AMOUNTS = {"ignore_unknown_options": True, "help_option_names": ["-h", "--help"]}


def client_of(context: typer.Context, home: Path | None, url: str | None) -> Client:
    """The platform that this command speaks to; nothing is opened before the first request."""
    from cerulea.client import Client

    settings = settings_of(context, home)
    address = _address(context, home, url)
    return Client(address, settings.key) if address else Client(settings=settings)


def is_elsewhere(context: typer.Context, home: Path | None, url: str | None) -> bool:
    """Whether this command speaks to a platform behind a URL."""
    return bool(_address(context, home, url))


def _address(context: typer.Context, home: Path | None, url: str | None) -> str:
    return url or ("" if home or context.obj else settings_of(context, home).url)


def group(help: str) -> typer.Typer:
    """Commands below one word."""
    return typer.Typer(
        help=help, no_args_is_help=True, rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]}
    )


def show(values: Iterable[Any], as_json: bool, columns: dict[str, Callable[[Any], object]], none: str) -> None:
    """Values as JSON lines, or as a table whose columns are computed from each; `none` where there is none."""
    from cerulea.client.answers import plain

    found: Sequence[Any] = list(values)
    if as_json:
        for value in found:
            put(plain(value))
        return
    if not found:
        print(none)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table()
    rows = [[str(cell(value)) for cell in columns.values()] for value in found]
    first, *others = columns
    add_names(table, first, (row[0] for row in rows))
    for name in others:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def tell(value: Any, as_json: bool, sentence: str) -> None:
    """One value as a JSON line, or a sentence that says it."""
    from cerulea.client.answers import plain

    put(plain(value)) if as_json else print(sentence)


def day(moment: str | None) -> str:
    """The date and minute of a moment on the wire."""
    return "" if moment is None else moment[:16].replace("T", " ")
