"""Which bytes stand behind each id, so that text can be written one token at a time.

In:      a library tokenizer and its decoder.
Out:     Spelling: a table of bytes by id, and what the decoder does to the first token of a text.
Kept:    joined bytes are, decoded, what the library's own `decode` gives wherever they are UTF-8; special tokens have
         no bytes. A decoder that cannot be told token by token is refused rather than guessed.
Not here: characters and stop strings (`stream`).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer as Library

from cerulea.core.errors import TokenizerInvalid

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def byte_letters() -> dict[str, int]:
    """GPT-2's printable stand-in of every byte: printable bytes are themselves, others follow from U+0100."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {chr(b): b for b in printable}
    others = (b for b in range(256) if b not in set(printable))
    letters.update({chr(256 + i): b for i, b in enumerate(others)})
    return letters


@dataclass(frozen=True, slots=True)
class Spelling:
    """Bytes of every token.

    Attributes:
        table: bytes by id; b"" for special tokens and for ids that no token has.
        names: the token itself by id, as text; special ones too.
        strip: blanks taken from the beginning of a text.
        blank: the character that stands for a blank and is left out of a text's first token; "" where none is.
    """

    table: tuple[bytes, ...]
    names: tuple[str, ...]
    strip: int = 0
    blank: str = ""


def spell(library: Library) -> Spelling:
    """The bytes of every token, by what the decoder does to a token.

    Raises:
        TokenizerInvalid: the decoder does more than byte letters, replacing, byte fallback and blanks.
    """
    steps = _steps(json.loads(library.to_str()).get("decoder"))
    kinds = [step["type"] for step in steps]
    letters = byte_letters() if "ByteLevel" in kinds else {}
    size = max(library.get_vocab().values()) + 1
    table, names = [b""] * size, [""] * size
    special = {i for i, token in library.get_added_tokens_decoder().items() if token.special}
    for token, i in library.get_vocab().items():
        names[i] = token
        if i in special:
            continue
        if letters:
            known = [letters.get(letter) for letter in token]
            table[i] = token.encode() if None in known else bytes(b for b in known if b is not None)
        elif "ByteFallback" in kinds and (byte := _BYTE.fullmatch(token)):
            table[i] = bytes([int(byte[1], 16)])
        else:
            for step in steps:
                if step["type"] == "Replace":
                    token = token.replace(step["pattern"]["String"], step["content"])
                elif step["type"] == "Metaspace":
                    token = token.replace(step["replacement"], " ")
            table[i] = token.encode()
    strip = sum(step["start"] for step in steps if step["type"] == "Strip")
    blanks = [s["replacement"] for s in steps if s["type"] == "Metaspace" and s.get("prepend_scheme") != "never"]
    return Spelling(tuple(table), tuple(names), strip, blanks[0] if blanks else "")


def _steps(decoder: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The decoder's steps in order, each one known here."""
    if decoder is None:
        raise TokenizerInvalid(
            "The tokenizer has no decoder.",
            why="Without one the library puts a blank between any two tokens.",
            fix="Add its decoder to tokenizer.json.",
        )
    if decoder["type"] == "Sequence":
        return [step for inner in decoder["decoders"] for step in _steps(inner)]
    plain = (
        decoder["type"] in ("ByteLevel", "ByteFallback", "Fuse", "Metaspace")
        or (decoder["type"] == "Replace" and "String" in decoder["pattern"])
        or (decoder["type"] == "Strip" and decoder["content"] == " " and not decoder["stop"])
    )
    if not plain:
        raise TokenizerInvalid(
            f"Text cannot be written token by token with the tokenizer's decoder {decoder['type']}.",
            why="ByteLevel, Metaspace, ByteFallback, Fuse, Replace of a string and Strip of leading blanks can be.",
            fix="Serve a model with a byte-level or sentencepiece tokenizer.",
        )
    return [decoder]
