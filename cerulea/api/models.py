"""Models by name: list, show, alias, retire."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Response

from cerulea.api import people_schema as schema
from cerulea.api.asking import Needs, Opened, Writes
from cerulea.api.schema import LABEL, NAME
from cerulea.core.errors import NotFound
from cerulea.flows import curate as story
from cerulea.flows.known import config_of, record_of
from cerulea.people import Caller
from cerulea.registry import read_exact

router = APIRouter(prefix="/api", tags=["models"])
Reads = Annotated[Caller, Depends(Needs("models:read"))]
Changes = Annotated[Caller, Depends(Needs("models:write"))]
Label = Annotated[str, Path(pattern=LABEL, description="brook, brook@3 or brook:prod.", examples=["brook@3"])]
ModelName = Annotated[str, Path(pattern=NAME, description="A model's name.", examples=["brook"])]
AliasName = Annotated[str, Path(pattern=NAME, description="An alias.", examples=["prod"])]


@router.get("/models", response_model=schema.ModelList)
def list_models(caller: Reads, platform: Opened) -> schema.ModelList:
    """Models, by name."""
    return schema.ModelList(items=[schema.model_out(one) for one in platform.registry.models(teams=caller.teams)])


@router.get("/versions", response_model=schema.VersionList)
def list_versions(
    caller: Reads,
    platform: Opened,
    retired: Annotated[bool, Query(description="Retired ones too.")] = False,
) -> schema.VersionList:
    """Versions of all models, by name and version."""
    registry, teams = platform.registry, caller.teams
    aliases = {one.model: one.aliases for one in registry.models(teams=teams)}
    return schema.VersionList(
        items=[
            schema.listed_out(version, aliases.get(version.model, {}))
            for version in registry.versions(teams=teams, retired=retired)
        ]
    )


@router.get("/models/{label}", response_model=schema.ModelDetail)
def show_model(label: Label, caller: Reads, platform: Opened) -> schema.ModelDetail:
    """One version: its card and files, its aliases with their history, what it came from and what came from it."""
    registry, teams = platform.registry, caller.teams
    try:
        found = registry.resolve(label, teams=teams)
    except NotFound:
        if "@" not in label:
            raise
        found = registry.version(*read_exact(label), teams=teams)  # a retired one can still be looked at
    listed = next(one for one in registry.models(teams=teams) if one.model == found.model)
    return schema.detail_out(
        registry.lineage(found, teams=teams),
        listed.aliases,
        registry.alias_history(found.model, teams=teams),
        [one.version for one in registry.versions(found.model, teams=teams)],
        config_of(platform, found),
        record_of(platform.settings, found.run),
    )


@router.post("/models/{label}/aliases", response_model=schema.MoveOut)
def set_alias(label: Label, body: schema.NewAlias, caller: Changes, platform: Opened, write: Writes) -> Response:
    """Let an alias name this version from now on."""
    return write(lambda tx, key: schema.move_out(story.set_alias(platform, caller, label, body.alias, tx=tx)))


@router.delete("/models/{model}/aliases/{alias}", response_model=schema.MoveOut)
def remove_alias(model: ModelName, alias: AliasName, caller: Changes, platform: Opened, write: Writes) -> Response:
    """Let an alias name nothing any more; its history stays."""
    return write(lambda tx, key: schema.move_out(story.remove_alias(platform, caller, model, alias, tx=tx)))


@router.post("/models/{label}/retire", response_model=schema.VersionOut)
def retire(label: Label, body: schema.Retiring, caller: Changes, platform: Opened, write: Writes) -> Response:
    """Let a version be found no more, or again."""
    return write(
        lambda tx, key: schema.VersionOut(
            **schema.version_values(story.retire(platform, caller, label, undo=body.undo, tx=tx))
        )
    )
