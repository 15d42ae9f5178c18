"""Every environment variable that Cerulea reads, read once into one frozen value.

docs/settings.md is generated from the fields below.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from cerulea.core.errors import Invalid


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of this process."""

    home: Path = field(
        default_factory=lambda: Path.home() / ".cerulea",
        metadata={"env": "CERULEA_HOME", "help": "Folder of runs, models, packed corpora and measurements."},
    )
    threads: int = field(
        default=0,
        metadata={
            "env": "CERULEA_THREADS",
            "help": "CPU threads of each process; 0 takes OMP_NUM_THREADS where it is set, or every core.",
        },
    )
    device: str = field(
        default="auto",
        metadata={"env": "CERULEA_DEVICE", "help": "`cpu`, `cuda` or `auto`, which takes a GPU where there is one."},
    )

    database_url: str = field(
        default="",
        metadata={
            "env": "CERULEA_DATABASE_URL",
            "help": "`postgresql://user:password@host/name`; without it a SQLite file in CERULEA_HOME.",
        },
    )
    blobs_url: str = field(
        default="",
        metadata={
            "env": "CERULEA_BLOBS_URL",
            "help": "Where models and checkpoints are kept by content: `az://`, `s3://` or a folder; "
            "without it a folder in CERULEA_HOME.",
        },
    )
    data_roots: str = field(
        default="",
        metadata={
            "env": "CERULEA_DATA_ROOTS",
            "help": "Folders that jobs of other people may read, with `:` between them; without it CERULEA_HOME/data "
            "alone. Admins may name any path ([the platform](platform.md)).",
        },
    )
    url: str = field(
        default="",
        metadata={
            "env": "CERULEA_URL",
            "help": "A running platform, such as `http://127.0.0.1:7777`; without it commands work in CERULEA_HOME.",
        },
    )
    key: str = field(
        default="", metadata={"env": "CERULEA_KEY", "help": "API key (`ck_...`) for the platform at CERULEA_URL."}
    )

    serve_engine: str = field(
        default="own",
        metadata={
            "env": "CERULEA_SERVE_ENGINE",
            "help": "What computes served models: `own`, or `vllm` on a large GPU, installed beside "
            "([serving](serving.md)).",
        },
    )
    serve_weights: str = field(
        default="auto",
        metadata={
            "env": "CERULEA_SERVE_WEIGHTS",
            "help": "Format in which served models compute: `fp32`, `bf16`, `int8`, or `auto`, which takes bf16 where "
            "this machine is faster in it.",
        },
    )
    serve_rows: int = field(
        default=16,
        metadata={"env": "CERULEA_SERVE_ROWS", "help": "Requests that a served model works on at a time."},
    )
    serve_queue: int = field(
        default=256,
        metadata={
            "env": "CERULEA_SERVE_QUEUE",
            "help": "Requests that may wait beside those; more are refused with 429.",
        },
    )
    serve_memory_gb: int = field(
        default=0,
        metadata={
            "env": "CERULEA_SERVE_MEMORY_GB",
            "help": "Memory that all served models may have together; 0 takes six tenths of the machine's.",
        },
    )
    serve_grace_s: int = field(
        default=30,
        metadata={
            "env": "CERULEA_SERVE_GRACE_S",
            "help": "Seconds that running requests get to end when the server is asked to stop.",
        },
    )

    @property
    def database(self) -> str:
        """URL of the database of money, jobs, models and people."""
        return self.database_url or f"sqlite:///{self.home.absolute() / 'core.db'}"

    @property
    def telemetry(self) -> str:
        """URL of the database of metrics and logs: a file of its own, or the same PostgreSQL."""
        return self.database_url or f"sqlite:///{self.home.absolute() / 'telemetry.db'}"

    @property
    def blobs(self) -> str:
        """Where files are kept by the hash of their content."""
        return self.blobs_url or str(self.home.absolute() / "blobs")

    @property
    def roots(self) -> tuple[Path, ...]:
        """Folders that jobs of callers who are no admins may read."""
        named = [Path(root).expanduser() for root in self.data_roots.split(os.pathsep) if root]
        return tuple(named) or (self.home.absolute() / "data",)

    @property
    def runs(self) -> Path:
        """Folder of training runs."""
        return self.home / "runs"

    @property
    def models(self) -> Path:
        """Folder of registered models."""
        return self.home / "models"

    @property
    def replays(self) -> Path:
        """Folder of matches that were kept, by team."""
        return self.home / "replays"

    @property
    def results(self) -> Path:
        """Folder of the results of matches, from which ratings are computed."""
        return self.home / "results"

    @property
    def shards(self) -> Path:
        """Folder of packed corpora and trained tokenizers."""
        return self.home / "shards"


_WHOLE = {  # what it counts, and the least
    "threads": ("CPU threads", 0),
    "serve_rows": ("requests", 1),
    "serve_queue": ("requests", 0),
    "serve_memory_gb": ("gigabytes", 0),
    "serve_grace_s": ("seconds", 0),
}
_WORDS = {
    "device": ("auto", "cpu", "cuda"),
    "serve_engine": ("own", "vllm"),
    "serve_weights": ("auto", "fp32", "bf16", "int8"),
}


def read_settings(environment: Mapping[str, str] = os.environ, *, home: Path | None = None) -> Settings:
    """Read the settings from `environment`; `home` (the --home flag) wins over CERULEA_HOME.

    Raises:
        Invalid: a variable holds what it cannot hold.
    """
    values: dict[str, object] = {}
    for spec in fields(Settings):
        text = environment.get(spec.metadata["env"], "")
        if not text:
            continue
        values[spec.name] = _parse(spec.name, spec.metadata["env"], text)
    if home is not None:
        values["home"] = home.expanduser()
    return Settings(**values)  # type: ignore[arg-type]


def _parse(name: str, variable: str, text: str) -> object:
    if name == "home":
        return Path(text).expanduser()
    if name in _WHOLE:
        if not text.isdigit() or int(text) < _WHOLE[name][1]:
            what, least = _WHOLE[name]
            raise Invalid(
                f"{variable} is {text!r}.",
                why=f"It is a whole number of {what}, {least} or more.",
                fix=f"Unset {variable}.",
            )
        return int(text)
    if name == "data_roots":
        return _checked_roots(text, variable)
    if name in ("database_url", "blobs_url", "url", "key"):
        return text.strip()
    if text not in _WORDS[name]:
        raise Invalid(
            f"{variable} is {text!r}.", why=f"It is one of {', '.join(_WORDS[name])}.", fix=f"Unset {variable}."
        )
    return text


def _checked_roots(text: str, variable: str) -> str:
    """Whole paths only: a relative one would mean another folder in every process."""
    for root in text.split(os.pathsep):
        if root and not Path(root).expanduser().is_absolute():
            raise Invalid(
                f"{variable} names {root!r}.",
                why="Each folder is a whole path, for workers run elsewhere.",
                fix=f"Write it like /srv/data{os.pathsep}/srv/more.",
            )
    return text
