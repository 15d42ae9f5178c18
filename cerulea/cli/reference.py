"""The reference pages of docs/, written from the code that they describe.

In:      the commands, the error tree, the settings and the recipe keys, as the code declares them.
Out:     docs/cli.md, docs/errors.md, docs/settings.md and docs/recipes.md.
Kept:    a page is a function of the code alone: no terminal's width, no machine, no date is in it.

    python -m cerulea.cli.reference            write the pages
    python -m cerulea.cli.reference --check    exit code 1, and the names, where a page is not what the code says
"""

from __future__ import annotations

import dataclasses
import json
import sys
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer.main

from cerulea.cli.main import app
from cerulea.core.errors import CeruleaError
from cerulea.core.settings import Settings
from cerulea.train.recipe import KINDS_OF_RUN

DOCS = Path(__file__).resolve().parents[2] / "docs"
WRITTEN = "<!-- Written by `make docs` from {source}; change it there. -->\n"
WORDS = {"str": "TEXT", "int": "N", "float": "X", "Path": "DIR"}
TYPES = {"str": "text", "int": "whole number", "float": "number", "bool": "true or false"}


def pages() -> dict[str, str]:
    """Every generated page by its file name in docs/."""
    return {
        "cli.md": cli_page(),
        "errors.md": errors_page(),
        "settings.md": settings_page(),
        "recipes.md": recipes_page(),
    }


def stale() -> list[str]:
    """Names of pages whose file is missing or differs from what the code says."""
    return [name for name, text in pages().items() if not _holds(DOCS / name, text)]


def _holds(path: Path, text: str) -> bool:
    return path.exists() and path.read_text(encoding="utf-8") == text


# -- commands ----------------------------------------------------------------------------------------


def cli_page() -> str:
    """Every command with its arguments and options."""
    group: Any = typer.main.get_command(app)
    found = dict(commands(group))
    parts = [
        "# The command line\n",
        WRITTEN.format(source="cerulea/cli/main.py"),
        f"{group.help}\n",
        "`cerulea --version` prints the version, `cerulea COMMAND --help` (or `-h`) what stands here. `--home` may\n"
        "also be given before the command.\n",
        _table(
            ("command", "what it does"),
            ((f"[`{name}`](#cerulea-{name.replace(' ', '-')})", c.help) for name, c in found.items()),
        ),
        "Exit codes: 0 done, 1 failed, 2 wrong usage or input, 3 not enough money, 4 not allowed, 5 a conflict with\n"
        "what is there, 6 the platform does not answer, 130 stopped by Ctrl-C before it was done (the first one\n"
        "during training finishes the step, saves, and is no failure). `cerulea watch` ends as its job did. With\n"
        "`--json` an error is a line too: `event`, `code`, `what`, `why`, `fix`. [errors.md](errors.md) lists them.\n",
    ]
    for name, command in found.items():
        types_of = typing.get_type_hints(command.callback.__wrapped__)
        arguments = [p for p in command.params if not p.opts[0].startswith("-")]
        options = [p for p in command.params if p.opts[0].startswith("-")]
        words = [_word(p) for p in arguments]
        words += [_option(p, types_of[p.name]).strip("`") for p in options if p.required]
        usage = " ".join(["cerulea", name, *words, "[options]"])
        parts += [f"## cerulea {name}\n", f"{command.help}\n", f"    {usage}\n"]
        rows = [(f"`{_word(p)}`", p.help, "") for p in arguments]
        rows += [(_option(p, types_of[p.name]), p.help, _default(p)) for p in options]
        parts.append(_table(("argument or option", "meaning", "default"), rows))
    return "\n".join(parts)


def commands(group: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """Every command with its words: `train`, `fund draw`."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{before}{name} ")
        else:
            yield f"{before}{name}", command


def _word(argument: Any) -> str:
    return str(argument.metavar or argument.name.upper())


def _option(option: Any, hint: Any) -> str:
    word = "" if option.is_flag or hint is bool else f" {option.metavar or WORDS[_plain(hint).__name__]}"
    return f"`{option.opts[0]}{word}`{', repeatable' if option.multiple else ''}"


def _plain(hint: Any) -> type:
    """`str` of `list[str] | None`, and so on."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return _plain(next(a for a in typing.get_args(hint) if a is not type(None)))
    return _plain(typing.get_args(hint)[0]) if typing.get_origin(hint) is list else hint


def _default(option: Any) -> str:
    if option.required:
        return "required"
    return "" if any(option.default is none for none in (None, False, "")) else f"`{option.default}`"


# -- errors ------------------------------------------------------------------------------------------


def errors_page() -> str:
    """The error tree: code, exit code, name, meaning."""
    rows = [
        (f"`{kind.code}`", str(kind.exit_code), f"{'· ' * depth}{kind.__name__}", _first_line(kind))
        for kind, depth in error_tree()
    ]
    return "\n".join(
        [
            "# Errors\n",
            WRITTEN.format(source="cerulea/core/errors.py"),
            "Every error says what happened, why, and what to type next. Its code never changes, so that a program\n"
            "can rely on it; with `--json` it stands in `code`. A traceback is a bug of ours: please report it.\n",
            _table(("code", "exit code", "error", "meaning"), rows),
        ]
    )


def error_tree(kind: type[CeruleaError] = CeruleaError, depth: int = 0) -> Iterator[tuple[type[CeruleaError], int]]:
    """Every error class of the tree with its depth, parents first, in the order of the file."""
    yield kind, depth
    for child in kind.__subclasses__():
        if child.__module__ == CeruleaError.__module__:
            yield from error_tree(child, depth + 1)


def _first_line(kind: type) -> str:
    return (kind.__doc__ or "").strip().splitlines()[0]


# -- settings ----------------------------------------------------------------------------------------


def settings_page() -> str:
    """Every environment variable."""
    rows = []
    for spec in dataclasses.fields(Settings):
        default = spec.default_factory() if callable(spec.default_factory) else spec.default
        shown = str(default).replace(str(Path.home()), "~", 1) if isinstance(default, Path) else str(default)
        rows.append((f"`{spec.metadata['env']}`", f"`{shown}`", spec.metadata["help"]))
    return "\n".join(
        [
            "# Settings\n",
            WRITTEN.format(source="cerulea/core/settings.py"),
            "Cerulea reads these environment variables once, when a command starts. An empty one counts as not set.\n"
            "What a run computes is never set here: that is the [recipe](recipes.md)'s.\n",
            _table(("variable", "default", "meaning"), rows),
            "A process that `torchrun` started is told its place by `RANK`, `WORLD_SIZE`, `LOCAL_RANK`, `MASTER_ADDR`\n"
            "and `MASTER_PORT`, as torch is.\n",
        ]
    )


# -- recipes -----------------------------------------------------------------------------------------


def recipes_page() -> str:
    """Every recipe key, table by table."""
    parts = [
        "# Recipe keys\n",
        WRITTEN.format(source="cerulea/train/recipe.py"),
        "A recipe is a TOML file; recipes/ holds some. Every key has a default; an unknown one is an error that names\n"
        "the nearest known one. `--set table.key=value` changes a key for one run, in TOML's notation:\n"
        "`--set train.steps=100 --set 'data.valid=[\"held-out.txt\"]'`.\n",
    ]
    for word, kind in KINDS_OF_RUN.items():
        parts += [f'# Recipes of kind "{word}"\n', f"{_first_line(kind)}\n", *_recipe_tables(kind, word)]
    return "\n".join(parts)


def _recipe_tables(recipe: type, word: str) -> Iterator[str]:
    """The keys of one kind of recipe, table by table."""
    hints = typing.get_type_hints(recipe)
    specs: list[Any] = list(dataclasses.fields(recipe))
    tables = [spec for spec in specs if dataclasses.is_dataclass(hints[spec.name])]
    yield from (f"## {word}: at the top\n", _keys_table([spec for spec in specs if spec not in tables], hints))
    for table in tables:
        kind = hints[table.name]
        yield from (f"## {word}: [{table.name}]\n", f"{_first_line(kind)}\n")
        yield _keys_table(list(dataclasses.fields(kind)), typing.get_type_hints(kind))


def _keys_table(specs: list[Any], hints: dict[str, Any]) -> str:
    rows = []
    for spec in specs:
        default = spec.default if spec.default is not dataclasses.MISSING else spec.default_factory()
        rows.append((f"`{spec.name}`", _type_name(hints[spec.name]), f"`{json.dumps(default)}`", spec.metadata["help"]))
    return _table(("key", "type", "default", "meaning"), rows)


def _type_name(hint: Any) -> str:
    if typing.get_origin(hint) is dict:
        return "table"
    if typing.get_origin(hint) is list:
        inner = _type_name(typing.get_args(hint)[0])
        return "list of " + (inner.replace("list of", "lists of", 1) if inner.startswith("list") else f"{inner}s")
    return TYPES[_plain(hint).__name__]


# -- writing -----------------------------------------------------------------------------------------


def _table(head: tuple[str, ...], rows: typing.Iterable[tuple[str, ...]]) -> str:
    """A Markdown table; a bar inside a cell is escaped."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def main(words: list[str], say: Callable[[str], None] = print) -> int:
    """Write the pages, or with --check compare them; returns the exit code."""
    for name in (old := stale()):
        if "--check" in words:
            say(f"docs/{name} is not what the code says. Write it anew: make docs")
        else:
            DOCS.mkdir(exist_ok=True)
            (DOCS / name).write_text(pages()[name], encoding="utf-8")
            say(f"wrote docs/{name}")
    return 1 if old and "--check" in words else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
