"""What a person does to models by name: move an alias, retire a version and bring it back.

In:      an open Platform, who asks, labels.
Kept:    what is done and its line in the log commit together; who may not is refused before anything is done.
Not here: the rules (`registry`), files and folders (`flows.model_folders`).
"""

from __future__ import annotations

from cerulea.flows.platform import Platform
from cerulea.people import Caller
from cerulea.registry import AliasMove, Version, read_exact
from cerulea.store.database import Tx


def set_alias(platform: Platform, caller: Caller, label: str, alias: str, *, tx: Tx | None = None) -> AliasMove:
    """Let `alias` name the version that a label names now: `brook@3`, `brook` (the newest) or `brook:candidate`.

    Raises:
        NotFound: no such version, or it is retired.
        Invalid: no name for an alias.
    """
    caller.need("models:write")
    version = platform.registry.resolve(label, teams=caller.teams)
    return _move(platform, caller, version.model, alias, version.version, version.team, tx)


def remove_alias(platform: Platform, caller: Caller, model: str, alias: str, *, tx: Tx | None = None) -> AliasMove:
    """Let `alias` name no version of `model` any more; its history stays.

    Raises:
        NotFound: no such model or alias.
    """
    caller.need("models:write")
    team = platform.registry.versions(model, teams=caller.teams)[0].team
    return _move(platform, caller, model, alias, None, team, tx)


def retire(platform: Platform, caller: Caller, label: str, *, undo: bool = False, tx: Tx | None = None) -> Version:
    """Let one version, `brook@3`, be found no more; or let it be found again.

    Raises:
        NotFound: the label is not of one version, or there is none of it.
        Conflict: an alias names it.
    """
    caller.need("models:write")
    model, number = read_exact(label)
    registry, teams = platform.registry, caller.teams

    def work(tx: Tx) -> Version:
        if undo:
            version = registry.unretire(model, number, teams=teams, tx=tx)
        else:
            version = registry.retire(model, number, caller.actor, teams=teams, tx=tx)
        action = "model.unretire" if undo else "model.retire"
        platform.people.record(caller.actor, action, version.label, version.team, tx=tx)
        return version

    return platform.database.within(tx, work)


def _move(
    platform: Platform, caller: Caller, model: str, alias: str, version: int | None, team: str, tx: Tx | None
) -> AliasMove:
    def work(tx: Tx) -> AliasMove:
        move = platform.registry.alias(model, alias, version, caller.actor, teams=caller.teams, tx=tx)
        detail = {"before": move.before, "after": move.after}
        platform.people.record(caller.actor, "model.alias", f"{model}:{alias}", team, detail, tx=tx)
        return move

    return platform.database.within(tx, work)
