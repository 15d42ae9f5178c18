"""What a checkpoint is bound to: a run may go on only with what gives the same numbers.

In:      a recipe and shards, and the binding that a checkpoint was written with.
Out:     what differs, in words.
Not here: the manifest of a checkpoint's files (`checkpoint`).
"""

from __future__ import annotations

from typing import Any

from cerulea.text.shards import Shards
from cerulea.train.recipe import TextRecipe

# Keys that may differ when a run goes on: they say when to stop, look or save, and touch no step before.
MAY_CHANGE = {
    "train": {
        *TextRecipe.ends.values(),
        *("eval_first", "eval_steps", "eval_minutes", "eval_at_minutes", "sample_tokens", "sample_prompt"),
        *("checkpoint_steps", "checkpoint_minutes", "keep_last", "keep_best"),
    },
    "data": {"train", "valid"},  # paths may move; the digest of the documents may not
    "tokenizer": {"folder"},
}


def binding(recipe: TextRecipe, shards: Shards) -> dict[str, Any]:
    """What a checkpoint is bound to: every key that decides its numbers, and the digests of what was read."""
    keys = recipe.as_json()
    del keys["name"]
    for table, names in MAY_CHANGE.items():
        for name in names:
            keys[table].pop(name, None)
    return {"recipe": keys, "corpus": shards.corpus, "tokenizer": shards.tokenizer}


def differences(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between two bindings, as a person would say it."""
    found = []
    if then["corpus"] != now["corpus"]:
        found.append(f"corpus ({then['corpus'][:12]}, now {now['corpus'][:12]})")
    if then["tokenizer"] != now["tokenizer"]:
        found.append(f"tokenizer ({then['tokenizer'][:12]}, now {now['tokenizer'][:12]})")
    for table, value in now["recipe"].items():
        old = then["recipe"].get(table)
        if isinstance(value, dict) and isinstance(old, dict):
            found += [f"{table}.{k} ({old.get(k)!r}, now {v!r})" for k, v in value.items() if old.get(k) != v]
        elif old != value:
            found.append(f"{table} ({old!r}, now {value!r})")
    return found
