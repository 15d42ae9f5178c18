"""Prompts as they are written, to token ids, and ids to text: for one loaded model.

In:      a string, strings, ids or lists of ids.
Out:     Prompts with at least one id each, all below the model's vocabulary.
Kept:    a long text is read in a thread, so that nobody else's stream waits for it; what is certainly longer than the
         context is refused unread.
Not here: how a conversation is written (`text.chat`).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence

from cerulea.core.errors import Invalid, PromptTooLong
from cerulea.flows.ask import Prompt
from cerulea.flows.serving import Served
from cerulea.text.tokenizer import Tokenizer

Given = str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]] | None
AT_ONCE = 20_000  # characters that are read without a thread

_pen = threading.Lock()  # a tokenizer keeps the words it has seen, and is not asked from two threads at once


async def read_prompts(served: Served, given: Given, *, begin: bool = False) -> tuple[Prompt, ...]:
    """The prompts of a request; none at all and an empty one begin a new document.

    Args:
        begin: texts are beginnings of documents: the model's begin-of-text token goes before them.

    Raises:
        Invalid: an empty list, an id that the model does not have.
        PromptTooLong: a text of which it is certain unread.
    """
    if given is None or isinstance(given, str):
        return await _read_texts(served, [given or ""], begin)
    if not given:
        raise Invalid("The list is empty.", fix="Give at least one prompt.")
    if isinstance(given[0], str):
        return await _read_texts(served, [str(text) for text in given], begin)
    lists = [given] if isinstance(given[0], int) else given
    return tuple(Prompt(ids=_checked(served, ids)) for ids in lists)  # type: ignore[arg-type]


async def encode(served: Served, texts: list[str], show: Callable[[str], str] = str) -> list[list[int]]:
    """Ids of texts in which special tokens may be spelled out; `show` as `Tokenizer.encode_prompt` takes it."""
    tokenizer = served.tokenizer
    if sum(map(len, texts)) <= AT_ONCE and _pen.acquire(blocking=False):
        try:
            return [tokenizer.encode_prompt(text, show) for text in texts]
        finally:
            _pen.release()
    return await asyncio.to_thread(_encode, tokenizer, texts, show)


async def _read_texts(served: Served, texts: list[str], begin: bool) -> tuple[Prompt, ...]:
    tokenizer = served.tokenizer
    widest = max(int(tokenizer.bytes_of.max()), *(len(name.encode()) for name in tokenizer.specials), 1)
    for text in texts:
        if len(text) > widest * served.context:
            raise PromptTooLong(
                f"This model's maximum context length is {served.context:,} tokens; the prompt has at least "
                f"{-(-len(text) // widest):,}.",
                fix="Shorten the prompt.",
            )
    found = await encode(served, texts)
    start = (tokenizer.begin_of_text,)
    if begin:
        return tuple(Prompt(ids=(*start, *ids), text=text) for ids, text in zip(found, texts, strict=True))
    return tuple(Prompt(ids=tuple(ids) or start, text=text) for ids, text in zip(found, texts, strict=True))


def _encode(tokenizer: Tokenizer, texts: list[str], show: Callable[[str], str]) -> list[list[int]]:
    with _pen:
        return [tokenizer.encode_prompt(text, show) for text in texts]


def _checked(served: Served, ids: Sequence[int]) -> tuple[int, ...]:
    if not ids:
        return (served.tokenizer.begin_of_text,)
    if (low := min(ids)) < 0 or max(ids) >= served.vocab:
        wrong = low if low < 0 else max(ids)
        raise Invalid(
            f"{served.label} has no token {wrong}.",
            why=f"Its ids are 0 to {served.vocab - 1:,}.",
            fix="Use the ids of this model's own tokenizer: POST /tokenize.",
        )
    return tuple(ids)
