"""Whether a self-play recipe fits its game and this machine; refused before anything begins.

Not here: what a recipe may be by itself (`play_recipe`).
"""

from __future__ import annotations

import difflib

from cerulea.core.errors import RecipeInvalid
from cerulea.games.game import Game
from cerulea.games.match import RANDOM
from cerulea.nn.policy import PolicyShape
from cerulea.train.play_recipe import PlayRecipe
from cerulea.train.rollout import bytes_of

SHARE = 0.8  # of the memory that there is


def refuse_too_large(recipe: PlayRecipe, game: Game, shape: PolicyShape, ranks: int, memory_bytes: int) -> None:
    """Refuse more matches than memory holds; a machine of 0 bytes is not asked.

    Raises:
        RecipeInvalid: with the estimate, and how many would fit.
    """
    keys = recipe.train
    whole = keys.minibatch >= keys.rollout * game.matches * game.players
    needed = ranks * (3 if whole else 2) * bytes_of(game, keys.rollout, shape.state)
    rows = min(keys.minibatch // ranks, keys.rollout * game.matches * game.players)
    needed += ranks * rows * _bytes_of_a_row(recipe, game)
    if memory_bytes and needed > SHARE * memory_bytes:
        raise RecipeInvalid(
            f"{recipe.game.matches:,} matches of {game.name} need about {needed / 1e9:.1f} GB; "
            f"this machine has {memory_bytes / 1e9:.1f} GB.",
            why=f"All that {game.players} players see in {keys.rollout} steps is kept for an update.",
            fix="Play fewer at once: --set game.matches="
            f"{max(1, int(recipe.game.matches * 0.5 * memory_bytes / needed))}",
        )


def _bytes_of_a_row(recipe: PlayRecipe, game: Game) -> int:
    """What a decision of a minibatch needs while gradients are computed: about 16 kB in `rift`, where 14 were seen."""
    m, schema = recipe.model, game.schema
    return 4 * (4 * schema.units * m.embed + 8 * m.width + 8 * m.memory + 4 * schema.actions)


def bots_of(recipe: PlayRecipe, game: Game) -> tuple[str, ...]:
    """The scripted players that are met, weakest first, in whatever order the recipe names them; `random` if it does.

    Raises:
        RecipeInvalid: the game does not know one of them; names the nearest.
    """
    names, known = tuple(recipe.opponents.names) or game.bots, (RANDOM, *game.bots)
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise RecipeInvalid(
                f"opponents.names has {name!r}, which {game.name} does not know.",
                why=f"The nearest is {near[0]}." if near else "",
                fix=f"Use some of {', '.join(known)}, or leave it empty.",
            )
    return tuple(bot for bot in known if bot in names)
