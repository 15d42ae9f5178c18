"""PettingZoo's environments by the name of their module, whether PettingZoo still has modules or a registry alone.

In:      `classic.tictactoe_v3`, or a module of anybody's with `parallel_env` or `env`.
Out:     what makes the environment, whether all players act at once, and a version.
Not here: the environments as a Game (`pettingzoo_in`).
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pettingzoo

from cerulea.core.errors import GameInvalid, NotFound

FAMILIES = ("atari", "butterfly", "classic", "sisl")


@dataclass(frozen=True, slots=True)
class Maker:
    """What makes an environment."""

    make: Callable[..., Any]
    parallel: bool
    version: str


def find_maker(name: str) -> Maker:
    """What makes the environment of that name.

    Raises:
        NotFound: there is none; names the nearest.
        GameInvalid: it is no environment, or needs what is not installed.
    """
    version = f"{name} pettingzoo {pettingzoo.__version__}"
    module = _module(f"pettingzoo.{name}")
    if module is None and (registered := _registered(name)) is not None:
        return Maker(*registered, version)
    # A name of PettingZoo's own kind is never somebody else's module.
    own = name.partition(".")[0] not in FAMILIES
    if module is None and own and (module := _module(name)) is not None:
        version = f"{name} {getattr(module, '__version__', '1')}"
    if module is None:
        near = difflib.get_close_matches(name, _names(), n=1, cutoff=0.4)
        raise NotFound(
            f"There is no environment {name!r}.",
            why=f"The nearest is {near[0]!r}." if near else "",
            fix="Name a module of PettingZoo, such as pettingzoo:classic.tictactoe_v3, or one of your own.",
        )
    for attribute in ("parallel_env", "env"):
        if callable(make := getattr(module, attribute, None)):
            return Maker(make, attribute == "parallel_env", version)
    raise GameInvalid(f"{name} has neither parallel_env nor env.", fix="Name an environment's module.")


def _module(full: str) -> ModuleType | None:
    try:
        with warnings.catch_warnings():
            # PettingZoo 1.27 prefers its registry, which 1.25 has not.
            warnings.simplefilter("ignore", DeprecationWarning)
            return importlib.import_module(full)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if full == missing or full.startswith(f"{missing}."):
            return None
        raise GameInvalid(f"{full} needs the package {missing}.", fix=f"pip install {missing}") from error
    except (ImportError, ValueError, TypeError) as error:  # ValueError and TypeError: a name that none could have
        if full.startswith("pettingzoo."):
            raise GameInvalid(f"{full} cannot be used: {error}", fix="Install what it needs.") from error
        return None


def _registered(name: str) -> tuple[Callable[..., Any], bool] | None:
    """What PettingZoo's registry has, since 1.27."""
    make = getattr(pettingzoo, "make", None)
    key = name.replace(".", "/").replace("_v", "-v")
    for kind in ("parallel", "aec"):
        if make is not None and key in getattr(pettingzoo, f"{kind}_registry", {}):
            return (lambda kind=kind, **options: make(kind, key, **options)), kind == "parallel"
    return None


def _names() -> list[str]:
    found = []
    for family in FAMILIES:
        package = _module(f"pettingzoo.{family}")
        if package is not None:
            found += [f"{family}.{each.name}" for each in pkgutil.iter_modules(package.__path__) if "_v" in each.name]
    return found
