"""Options that many commands share, and the settings that come of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from cerulea.core.settings import Settings, read_settings

Home = Annotated[
    Path | None, Option("--home", help="Folder of runs and models; CERULEA_HOME or ~/.cerulea by default.")
]
Json = Annotated[bool, Option("--json", help="One JSON object per line on standard output, nothing else there.")]
ModelName = Annotated[
    str, Argument(metavar="MODEL", help="A name (brook), a version (brook@3), an alias (brook:prod) or a folder.")
]
OwnGame = Annotated[
    str | None, Option("--game", help="The game, where it is a module of your own: python:MODULE; no file may say so.")
]


def settings_of(context: typer.Context, home: Path | None) -> Settings:
    """Settings from the environment and --home, given before or after the command."""
    return read_settings(home=home or context.obj)
