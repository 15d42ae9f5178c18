"""Text out of ids as they come: what may be shown, when, and where it stops.

In:      ids, a few at a time or all at once; stop strings.
Out:     pieces of text that are never taken back.
Kept:    the joined pieces are the same for any split of the ids, so that a stream and a plain answer cannot differ;
         a character waits for its last byte; what may still become a stop string waits, and nothing else does;
         the work for a token does not grow with the text before it.
Not here: ids that end a text (`serve.engine`), tool calls within it (`tools`).
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cerulea.text.tokenizer import Tokenizer


class _Bytes:
    """The bytes of one id after the other, by the tokenizer's rule for the first one."""

    def __init__(self, tokenizer: Tokenizer, *, begins: bool, shown: Sequence[str]) -> None:
        self.spelling = tokenizer.spelling
        self._strip = self.spelling.strip if begins else 0
        self._first = bool(begins and self.spelling.blank)
        self._shown = {tokenizer.specials[name]: name.encode() for name in shown if name in tokenizer.specials}

    def of(self, token: int) -> bytes:
        if (named := self._shown.get(token)) is not None:
            return named
        if token >= len(self.spelling.table) or not (found := self.spelling.table[token]):
            return b""
        if self._first:
            self._first = False
            if self.spelling.blank in self.spelling.names[token]:
                return self.spelling.names[token].replace(self.spelling.blank, "").encode()
        if self._strip:
            bare = found.lstrip(b" ") if len(found) - len(found.lstrip(b" ")) <= self._strip else found[self._strip :]
            self._strip = self._strip - (len(found) - len(bare)) if not bare else 0
            return bare
        return found


class TextStream:
    """Text of a sequence of ids, piece by piece.

    Args:
        stops: the text ends before the stop string that is complete first (of several, the longest).
        begins: the ids begin a text, so that the tokenizer's rule for a leading blank holds; False continues one.
        shown: names of special tokens that are written out all the same; the others are left out.

    Attributes:
        stopped: the stop string that ended the text, or None.
    """

    def __init__(
        self, tokenizer: Tokenizer, stops: Sequence[str] = (), *, begins: bool = True, shown: Sequence[str] = ()
    ) -> None:
        assert all(stops), "an empty stop string would stop before the first token"
        self.stopped: str | None = None
        self._bytes = _Bytes(tokenizer, begins=begins, shown=shown)
        self._stops = tuple(stops)
        self._longest = max(map(len, stops), default=0)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""  # shown when it can no longer be part of a stop string

    def push(self, ids: Iterable[int]) -> str:
        """What may be shown now that these ids stand in the text."""
        if self.stopped is not None:
            return ""
        return self._safe(self._decoder.decode(b"".join(map(self._bytes.of, ids))))

    def end(self) -> str:
        """The rest; a character that never became complete is U+FFFD. Nothing may be pushed afterwards."""
        if self.stopped is not None:
            return ""
        shown = self._safe(self._decoder.decode(b"", final=True))
        shown, self._held = shown + self._held, ""
        return shown

    def _safe(self, fresh: str) -> str:
        if not self._stops:
            return fresh
        text = self._held + fresh
        ends = [(at + len(stop), -len(stop), stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if ends:
            end, length, self.stopped = min(ends)
            self._held = ""
            return text[: end + length]
        for at in range(max(len(text) - self._longest + 1, 0), len(text)):
            if any(stop.startswith(text[at:]) for stop in self._stops):
                self._held = text[at:]
                return text[:at]
        self._held = ""
        return text


def text_of(
    tokenizer: Tokenizer,
    ids: Iterable[int],
    stops: Sequence[str] = (),
    *,
    begins: bool = True,
    shown: Sequence[str] = (),
) -> str:
    """The whole text of ids, up to the first stop string: exactly the joined pieces of a stream."""
    stream = TextStream(tokenizer, stops, begins=begins, shown=shown)
    return stream.push(ids) + stream.end()


@dataclass(frozen=True, slots=True)
class Piece:
    """One token as OpenAI's log probabilities show it."""

    text: str  # "bytes:\\xe2\\x80" where its bytes alone are no text; a special token's name
    bytes: bytes
    offset: int  # characters of the text that are complete before it


class Pieces:
    """Tokens with their texts, bytes and offsets, one after the other.

    Args:
        offset: of the first one.
        begins: as for TextStream.
    """

    def __init__(self, tokenizer: Tokenizer, *, offset: int = 0, begins: bool = True) -> None:
        self._bytes = _Bytes(tokenizer, begins=begins, shown=())
        self._special = {i: name for name, i in tokenizer.specials.items()}
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = offset

    def push(self, ids: Iterable[int]) -> list[Piece]:
        """The tokens that now follow."""
        found = []
        for token in ids:
            if name := self._special.get(token):
                found.append(Piece(name, name.encode(), self._offset))
                continue
            spelt = self._bytes.of(token)
            found.append(Piece(shown(spelt), spelt, self._offset))
            self._offset += len(self._decoder.decode(spelt))
        return found


def piece_of(tokenizer: Tokenizer, token: int) -> Piece:
    """One token alone, within a text: an alternative that was not picked."""
    return Pieces(tokenizer, begins=False).push([token])[0]


def shown(spelt: bytes) -> str:
    """Bytes as text, or spelled out as OpenAI does where they are none."""
    try:
        return spelt.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{b:02x}" for b in spelt)
