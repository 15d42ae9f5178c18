"""`cerulea models`, `show`, `alias`, `retire`: models by name, of this home or of a platform elsewhere.

Kept:    the same keys from both; a folder on another machine is null.
Not here: what opens tensors (`main`: sample, eval, import, export).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from cerulea.cli.lines import put
from cerulea.cli.options import Home, Json, settings_of
from cerulea.cli.reach import Url, client_of, is_elsewhere
from cerulea.core.clock import iso

if TYPE_CHECKING:
    from cerulea.client import Client
    from cerulea.flows.platform import Platform


def models(
    context: typer.Context,
    retired: Annotated[bool, Option("--retired", help="Retired versions too.")] = False,
    home: Home = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """List models."""
    from cerulea.cli.tables import show_models
    from cerulea.flows.model_folders import list_models
    from cerulea.flows.platform import open_platform

    if is_elsewhere(context, home, url):
        with client_of(context, home, url) as client:
            found = [
                _listed(one.model, one.version, None, one.aliases, one.retired_at is not None, one.card)
                for one in client.models.versions(retired=retired)
            ]
    else:
        with open_platform(settings_of(context, home)) as platform:
            found = [
                _listed(one.name, one.version, str(one.folder), one.aliases, one.retired, one.card())
                for one in list_models(platform, retired=retired)
            ]
    if not as_json:
        show_models(found)
        return
    for one in found:
        put(one)


def show(
    context: typer.Context,
    model: Annotated[str, Argument(metavar="MODEL", help="A model or a run.")],
    home: Home = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """All that is known of a model or a run."""
    from cerulea.cli.tables import show_known

    if is_elsewhere(context, home, url):
        with client_of(context, home, url) as client:
            known = _known_elsewhere(client, model)
    else:
        from cerulea.flows.platform import open_platform
        from cerulea.flows.show import show as look

        with open_platform(settings_of(context, home)) as platform:
            known = look(platform, model)
    put(known) if as_json else show_known(known)


def alias(
    context: typer.Context,
    model: Annotated[str, Argument(metavar="MODEL", help="A version (brook@3), or a name for its newest version.")],
    alias: Annotated[
        str, Argument(metavar="ALIAS", help="The alias, such as prod: brook:prod then names the version.")
    ],
    remove: Annotated[bool, Option("--remove", help="Let the alias name nothing.")] = False,
    history: Annotated[bool, Option("--history", help="Show every move of the alias, and move nothing.")] = False,
    home: Home = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Give a version of a model an alias, or show when it had which."""
    from cerulea.cli.tables import show_moves
    from cerulea.flows.platform import open_platform

    if is_elsewhere(context, home, url):
        with client_of(context, home, url) as client:
            moves = _moves_elsewhere(client, model, alias, remove, history)
    else:
        with open_platform(settings_of(context, home)) as platform:
            moves = _moves_here(platform, model, alias, remove, history)
    show_moves(moves, as_json)


def retire(
    context: typer.Context,
    model: Annotated[str, Argument(metavar="MODEL", help="One version: brook@3.")],
    undo: Annotated[bool, Option("--undo", help="Bring it back.")] = False,
    home: Home = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Let a version of a model be used no more; its files stay."""
    from cerulea.flows.curate import retire as withdraw
    from cerulea.flows.platform import open_platform

    if is_elsewhere(context, home, url):
        with client_of(context, home, url) as client:
            there = client.models.retire(model, undo=undo)
            name, number = there.model, there.version
    else:
        with open_platform(settings_of(context, home)) as platform:
            here = withdraw(platform, platform.people.caller(), model, undo=undo)
            name, number = here.model, here.version
    values = {"model": name, "version": number, "retired": not undo}
    put(values) if as_json else print(f"{name}@{number}: {'back in use' if undo else 'retired'}")


COMMANDS = (models, show, alias, retire)


def _listed(
    name: str, version: int, folder: str | None, aliases: Sequence[str], retired: bool, card: dict[str, Any]
) -> dict[str, Any]:
    return {
        "model": name,
        "version": version,
        "folder": folder,
        "aliases": list(aliases),
        "retired": retired,
        **card,
    }


def _known_elsewhere(client: Client, label: str) -> dict[str, Any]:
    """What `flows.show` tells of this machine's, from a platform elsewhere."""
    from cerulea.core.errors import NotFound

    try:
        found = client.models.get(label)
    except NotFound as unknown:
        try:
            return {"kind": "run", "folder": None, **client.jobs.record(label)}
        except NotFound:
            raise unknown from None
    return {
        "kind": "model",
        "model": found.label,
        "folder": None,
        "team": found.team,
        "digest": found.digest,
        "registered": found.created_at,
        "by": found.actor,
        "aliases": found.aliases,
        "corpus": found.corpus,
        "job": found.job,
        "parents": found.parents,
        "children": found.children,
        "card": found.card,
        "config": found.config,
        "run": found.run_record,
    }


def _moves_elsewhere(client: Client, model: str, alias: str, remove: bool, history: bool) -> list[dict[str, Any]]:
    if history:
        return [asdict(move) for move in client.models.get(model).history if move.alias == alias]
    return [asdict(client.models.remove_alias(model, alias) if remove else client.models.alias(model, alias))]


def _moves_here(platform: Platform, model: str, alias: str, remove: bool, history: bool) -> list[dict[str, Any]]:
    from cerulea.flows.curate import remove_alias, set_alias

    if history:
        moves = platform.registry.alias_history(model, alias)
    else:
        caller = platform.people.caller()
        moves = [(remove_alias if remove else set_alias)(platform, caller, model, alias)]
    return [{**asdict(move), "at": iso(move.at)} for move in moves]
