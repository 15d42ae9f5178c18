"""How a single token is written: its bytes, and the text that stands for it where it is shown alone.

In:      a tokenizer and ids.
Out:     bytes, special tokens spelled out; text in which every token can be told from every other one.
Kept:    the bytes of a text's tokens, joined, are the text's UTF-8 (for byte-level tokenizers).
Not here: joining tokens to text as they come (`text.stream`).
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable
from functools import lru_cache

from cerulea.text.spelling import byte_letters
from cerulea.text.tokenizer import Tokenizer

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


class Spelling:
    """The tokens of one tokenizer, one by one."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.library, self.vocab = tokenizer.library, tokenizer.vocab
        self.letters = byte_letters()
        self.byte_level = "ByteLevel" in json.dumps(json.loads(self.library.to_str()).get("decoder"))
        self.added = {i: token.content.encode() for i, token in self.library.get_added_tokens_decoder().items()}
        self._bytes: dict[int, bytes] = {}

    def raw(self, token: int) -> bytes:
        """What the token adds to a text; nothing for an id that no token has."""
        found = self._bytes.get(token)
        if found is None:
            found = self._bytes[token] = self._spell(token)
        return found

    def shown(self, token: int) -> str:
        """The token alone: its text, or `bytes:` and its bytes in hexadecimal where they are no whole characters."""
        raw = self.raw(token)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)

    def text(self, tokens: Iterable[int]) -> str:
        """All of them in a row, special tokens spelled out; broken UTF-8 becomes U+FFFD."""
        return b"".join(map(self.raw, tokens)).decode("utf-8", "replace")

    def offsets(self) -> Offsets:
        """A counter of characters for one text."""
        return Offsets(self)

    def _spell(self, token: int) -> bytes:
        if token in self.added:
            return self.added[token]
        written = self.library.id_to_token(token)
        if written is None:
            return b""
        if self.byte_level:
            return bytes(self.letters[letter] for letter in written if letter in self.letters)
        if match := _BYTE.fullmatch(written):
            return bytes([int(match[1], 16)])
        return bytes(written.replace("\u2581", " "), "utf-8")


class Offsets:
    """Where in a text each of its tokens begins, in characters."""

    def __init__(self, spelling: Spelling) -> None:
        self.spelling = spelling
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.at = 0

    def next(self, token: int, *, silent: bool = False) -> int:
        """Where this token begins; `silent` ones, special tokens that are left out of the text, take no room."""
        begins = self.at
        if not silent:
            self.at += len(self.decoder.decode(self.spelling.raw(token)))
        return begins


@lru_cache(maxsize=64)
def spelling_of(tokenizer: Tokenizer) -> Spelling:
    """The one Spelling of a tokenizer that is in use."""
    return Spelling(tokenizer)
