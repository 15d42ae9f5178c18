"""Models between three places: their rows in the registry, their files in the blobs, their folders on this machine.

In:      an open Platform; labels (`brook`, `brook@3`, `brook:prod`) or folders' paths.
Out:     Model values whose folder is there to be opened.
Kept:    CERULEA_HOME/models/NAME/VERSION is a copy, laid out from the blobs (by links, where the file system can) when
         it is first asked for, and verified then; it appears whole or not at all. What is kept nowhere else is never
         removed.
Not here: tensors (`flows.models`), runs (`flows.runs`), aliases and lineage (`registry`).
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cerulea.core.errors import Conflict, FileTrouble, ModelKindWrong, NotFound
from cerulea.core.files import read_json, sync_folder, write_bytes, write_json
from cerulea.core.names import is_name
from cerulea.registry import Teams, Version, check_name, manifest_digest
from cerulea.store.blobs import Blobs

if TYPE_CHECKING:
    from cerulea.flows.platform import Platform

CARD = "card.json"
CONFIG, AGENT = "config.json", "agent.json"  # one of them makes a folder a model: of a language, or of a player
MARK = ".manifest"  # digest of the manifest that a folder was verified against
# What lies in a checkpoint beside the model: what a resume needs (of an agent its past selves and the matches in flight
# too), its manifest; the card is kept in the registry.
NOT_THE_MODEL = ("optim.safetensors", "state.json", "MANIFEST.json", CARD, MARK, "pool.safetensors")
IN_FLIGHT = "matches-"  # begins the names of files


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model's folder, and what the registry knows of it where it knows it."""

    folder: Path
    registered: Version | None = None
    aliases: tuple[str, ...] = field(default=())

    @property
    def name(self) -> str:
        """Its name, or nothing for a mere folder."""
        return self.registered.model if self.registered else ""

    @property
    def version(self) -> int:
        """Its version, or 0 for a mere folder."""
        return self.registered.version if self.registered else 0

    @property
    def retired(self) -> bool:
        """Whether it is used no more."""
        return self.registered is not None and self.registered.retired_at is not None

    @property
    def plays(self) -> bool:
        """Whether it is an agent, which plays games, and no language model."""
        if self.registered is not None:
            return AGENT in self.registered.manifest
        return (self.folder / AGENT).exists()

    @property
    def label(self) -> str:
        """`brook@3`, or the folder's path."""
        return self.registered.label if self.registered else str(self.folder)

    def card(self) -> dict[str, Any]:
        """Its card, or nothing for a folder that has none."""
        if self.registered:
            return self.registered.card
        path = self.folder / CARD
        return dict(read_json(path)) if path.exists() else {}


def list_models(platform: Platform, *, teams: Teams = None, retired: bool = False) -> list[Model]:
    """All versions of all models, by name and version; folders are where they would lie."""
    aliases = {m.model: m.aliases for m in platform.registry.models(teams=teams)}
    return [
        Model(
            folder=_folder(platform, version),
            registered=version,
            aliases=tuple(alias for alias, number in aliases[version.model].items() if number == version.version),
        )
        for version in platform.registry.versions(teams=teams, retired=retired)
    ]


def find_model(platform: Platform, label: str, *, teams: Teams = None) -> Model:
    """The model that a label names, or else a folder's path: for whoever sits at this machine.

    Raises:
        NotFound: nothing of that name; names the nearest.
        PickleRefused: the path of a file that could run code.
    """
    try:
        return find_registered(platform, label, teams=teams)
    except NotFound:
        folder = Path(label).expanduser()
        if _is_known(platform, label, teams):
            raise  # a version or an alias that is not there is never looked for elsewhere
        if folder.is_file() or is_model(folder):
            return folder_model(folder)
        if (folder / "checkpoints").is_dir():
            raise NotFound(
                f"{label} is a run, not a model.", fix=f"Name one of its checkpoints, or see it: cerulea show {label}"
            ) from None
        raise


def find_registered(platform: Platform, label: str, *, teams: Teams = None) -> Model:
    """The model that a label names, its folder laid out; never a path: for callers from elsewhere.

    Raises:
        NotFound: nothing of that name, or it is retired.
        FileTrouble: a file of it is lost or damaged.
    """
    version = platform.registry.resolve(label, teams=teams)
    return Model(folder=lay_out(platform, version), registered=version)


def folder_model(path: Path) -> Model:
    """A folder, or a file in it that was named instead.

    Raises:
        NotFound: there is none.
        PickleRefused: a file of a kind that could run code.
    """
    if path.is_file():
        from cerulea.nn.weights import refuse_pickle

        refuse_pickle(path)
        path = path.parent
    if not is_model(path):
        raise NotFound(
            f"There is no model in {path}.",
            why=f"A model's folder has a {CONFIG}, an agent's an {AGENT}.",
            fix="Check the path.",
        )
    return Model(folder=path)


def is_model(folder: Path) -> bool:
    """Whether a folder holds a model of either kind."""
    return (folder / CONFIG).exists() or (folder / AGENT).exists()


def check_writes(model: Model) -> None:
    """Refuse an agent where a language model is needed.

    Raises:
        ModelKindWrong: says what can be done with it.
    """
    if model.plays:
        raise ModelKindWrong(
            f"{model.label} is an agent: it plays games and writes no text.",
            fix=f"Let it play: cerulea match {model.label} bot:random --game {model.card().get('preset') or 'GAME'}",
        )


def check_plays(model: Model) -> None:
    """Refuse a language model where an agent is needed.

    Raises:
        ModelKindWrong: says what can be done with it.
    """
    if not model.plays:
        raise ModelKindWrong(
            f"{model.label} is a language model: it plays no games.", fix="Name an agent, or a bot as bot:NAME."
        )


def lay_out(platform: Platform, version: Version) -> Path:
    """The folder of a version on this machine, made from the blobs where it is not there yet.

    Raises:
        FileTrouble: a file of it is lost or damaged, or the disk is full; nothing is left behind.
        Unreachable: the blobs are elsewhere and do not answer.
    """
    folder, digest = _folder(platform, version), manifest_digest(version.manifest)
    if _mark_of(folder) == digest:
        return folder
    temporary = folder.parent / f".{folder.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp"
    try:
        temporary.mkdir(parents=True)
        for name, entry in version.manifest.items():
            platform.blobs.fetch(entry["sha256"], temporary / name)
        write_json(temporary / CARD, version.card)
        write_bytes(temporary / MARK, digest.encode())
        sync_folder(temporary)
        while True:
            try:
                temporary.rename(folder)
                return folder
            except OSError as error:
                if not folder.exists():
                    raise FileTrouble(f"{folder} cannot be made: {error.strerror or error}.") from error
                if _mark_of(folder) == digest:  # another process was first
                    return folder
                # Other files than the registry's under this number: they may be the only ones of their kind.
                with contextlib.suppress(FileNotFoundError):
                    folder.rename(folder.with_name(f"{folder.name}.replaced-{secrets.token_hex(4)}"))
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def keep_files(blobs: Blobs, folder: Path) -> dict[str, dict[str, Any]]:
    """Put the files that make a model into the blobs, and return its manifest; what only a resume needs stays out."""
    manifest = {}
    for path in sorted(folder.iterdir()):
        if (
            path.name not in NOT_THE_MODEL
            and not path.name.startswith(IN_FLIGHT)
            and path.is_file()
            and is_name(path.name)
        ):
            manifest[path.name] = {"sha256": blobs.put_file(path), "bytes": path.stat().st_size}
    return manifest


def register(
    platform: Platform,
    source: Path,
    name: str,
    *,
    team: str,
    actor: str,
    extra: Mapping[str, Any],
    parent: str | None = None,
    number: int | None = None,
) -> Model:
    """Keep the model in a folder, or in a checkpoint's, as the next version of `name`.

    Args:
        extra: what to add to the card's own `extra`, `run` among them for what a run made.
        number: see `Registry.register`.

    Raises:
        Invalid, NotFound, Conflict: see `Registry.register`.
        FileTrouble, Unreachable: see `Blobs.put_file`.
    """
    check_name(name)
    card = _card_of(source)
    card["extra"] = {**card.get("extra", {}), **extra}
    manifest = keep_files(platform.blobs, source)
    version = platform.registry.register(
        name,
        manifest=manifest,
        digest=manifest_digest(manifest),
        card=card,
        team=team,
        actor=actor,
        run=card["extra"].get("run"),
        parent=parent,
        corpus=str(card.get("corpus") or ""),
        number=number,
    )
    return Model(folder=_folder(platform, version), registered=version)


def adopt_models(platform: Platform, *, team: str, actor: str) -> list[Version]:
    """Register, once, the models that lie in CERULEA_HOME/models and that the registry does not know.

    Their numbers stay as they are. A folder whose number is below a registered one is left where it is.
    """
    root = platform.settings.models
    if not root.is_dir():
        return []
    found = [
        (path.parent.name, int(path.name), path)
        for name in root.iterdir()
        if name.is_dir() and is_name(name.name)
        for path in name.iterdir()
        if re.fullmatch("[1-9][0-9]{0,8}", path.name) and is_model(path)
    ]
    if not found:
        return []
    last = {model.model: model.last for model in platform.registry.models()}
    adopted = []
    for name, number, path in sorted(found):
        if number > last.get(name, 0):
            # Another process that starts now adopts the same ones; a name may belong to another team.
            with contextlib.suppress(Conflict):
                model = register(platform, path, name, team=team, actor=actor, extra={}, number=number)
                adopted.append(model.registered)
                _mark(path, model.registered)
    return [version for version in adopted if version is not None]


def _mark(path: Path, version: Version | None) -> None:
    """Say that a folder is a version's, whose files were read when they were kept."""
    assert version is not None
    write_bytes(path / MARK, manifest_digest(version.manifest).encode())


def _mark_of(folder: Path) -> str:
    try:
        return (folder / MARK).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


def _card_of(folder: Path) -> dict[str, Any]:
    """The card in a folder; nothing where there is none, or where another program wrote something of that name."""
    try:
        card = read_json(folder / CARD)
    except (FileNotFoundError, ValueError):
        return {}
    if not isinstance(card, dict) or not isinstance(card.get("extra", {}), dict):
        return {}
    return card


def _is_known(platform: Platform, label: str, teams: Teams) -> bool:
    try:
        platform.registry.versions(re.split("[@:]", label)[0], teams=teams)
    except NotFound:
        return False
    return True


def _folder(platform: Platform, version: Version) -> Path:
    return platform.settings.models / version.model / str(version.version)
