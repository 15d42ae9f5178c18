"""A stream against plain text, the library's decode, and a search for stop strings in the whole text."""

from __future__ import annotations

import random

import pytest
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models

from cerulea.core.errors import TokenizerInvalid
from cerulea.text.stream import Pieces, TextStream, piece_of, shown, text_of
from cerulea.text.tokenizer import END_OF_TEXT, Tokenizer, bytes_tokenizer

from .families import FAMILIES, family

SNIPPETS = [
    "the",
    "sea,",
    "日本語",
    "and",
    "😀🏳️\u200d🌈",
    "naïve",
    "—",
    "“quotes”\n\n",
    "",
    "User:",
    '{"a":',
    "1}",
    "e\u0301",
]
SNIPPETS += ["\U0001f468\u200d\U0001f469", "]]>", "</s>", "aaaabaaab", " "]


@pytest.fixture(scope="module", params=FAMILIES)
def tokenizer(request) -> Tokenizer:
    return family(request.param)


def some_ids(tokenizer: Tokenizer, draw: random.Random) -> list[int]:
    """Words of many scripts, cut anywhere, single bytes that are no text, special tokens, ids that do not exist."""
    ids: list[int] = []
    for _ in range(draw.randrange(1, 12)):
        part = [int(i) for i in tokenizer.encode(" ".join(draw.choices(SNIPPETS, k=draw.randrange(1, 4))))]
        kind = draw.random()
        if kind < 0.2 and part:
            part = part[draw.randrange(len(part)) :][: draw.randrange(1, 5)]
        elif kind < 0.35:
            part = [draw.randrange(tokenizer.vocab + 3) for _ in range(draw.randrange(1, 6))]
        ids += part
    return ids


def in_pieces(stream: TextStream, ids: list[int], draw: random.Random) -> list[str]:
    pieces, at = [], 0
    while at < len(ids):
        size = draw.choice([1, 1, 1, 2, 5, 50])
        pieces.append(stream.push(ids[at : at + size]))
        at += size
    return [*pieces, stream.end()]


def cut(text: str, stops: list[str]) -> str:
    """Where the text ends, read character by character: before the stop string that is complete first."""
    for end in range(1, len(text) + 1):
        whole = [stop for stop in stops if text[:end].endswith(stop)]
        if whole:
            return text[: end - max(map(len, whole))]
    return text


def test_a_stream_is_the_plain_text_for_any_ids_stops_and_splits(tokenizer: Tokenizer):
    """1,000 random sequences: joined pieces, one push, and a search in the whole text give one and the same."""
    draw = random.Random(5)
    stopped = 0
    for _ in range(1000):
        ids = some_ids(tokenizer, draw)
        whole = text_of(tokenizer, ids)
        stops = [whole[at : at + draw.randrange(1, 9)] for at in draw.choices(range(len(whole) + 1), k=3)]
        stops += draw.choices(SNIPPETS, k=draw.randrange(2))
        stops = [stop for stop in draw.sample(stops, k=draw.randrange(len(stops) + 1)) if stop]
        stream = TextStream(tokenizer, stops)

        pieces = in_pieces(stream, ids, draw)

        assert "".join(pieces) == text_of(tokenizer, ids, stops) == cut(whole, stops)
        assert (stream.stopped is not None) == any(stop in whole for stop in stops)
        stopped += stream.stopped is not None
    assert 300 < stopped < 990


def test_text_is_the_library_s_where_it_is_text(tokenizer: Tokenizer):
    """Byte-level: always. With byte fallback: where the bytes are UTF-8 (the library writes one U+FFFD per byte)."""
    draw = random.Random(6)
    compared = 0
    for _ in range(1000):
        ids = some_ids(tokenizer, draw)
        theirs = tokenizer.decode(ids)
        if tokenizer.kind == "hf" and "\ufffd" in theirs:
            continue
        compared += 1
        assert text_of(tokenizer, ids) == theirs
    assert compared > 250


def test_texts_come_back(tokenizer: Tokenizer):
    for text in (" ".join(SNIPPETS), "a", "two  blanks", "日本 😀"):
        assert text_of(tokenizer, tokenizer.encode(text).tolist()) == text


def test_a_character_waits_for_its_last_byte():
    """Four bytes of one emoji: nothing, nothing, nothing, the emoji. Cut short, it is one U+FFFD."""
    tokenizer = bytes_tokenizer()
    stream = TextStream(tokenizer)

    assert [stream.push([b]) for b in "😀".encode()] == ["", "", "", "😀"]
    assert stream.push("😀".encode()[:3]) == ""
    assert stream.end() == "\ufffd"


def test_only_what_may_become_a_stop_string_waits():
    """'ab' could begin 'abc'; the 'x' after it shows that it did not."""
    tokenizer = bytes_tokenizer()
    stream = TextStream(tokenizer, ("abc", "\n\n"))

    assert [stream.push([ord(c)]) for c in "1ab2ab\n3"] == ["1", "", "", "ab2", "", "", "ab", "\n3"]
    assert stream.push(b"xab") == "x"
    assert stream.push(b"cde") == ""
    assert stream.stopped == "abc"
    assert stream.push(b"more") == stream.end() == ""


def test_what_waited_is_shown_at_the_end():
    stream = TextStream(bytes_tokenizer(), ("abc",))

    assert stream.push(b"ab") == ""
    assert stream.end() == "ab"


def test_the_stop_string_that_is_complete_first_ends_the_text():
    """Of those complete at the same character, the longest."""
    tokenizer = bytes_tokenizer()

    assert text_of(tokenizer, b"xabcd", ("abcd", "bc")) == "xa"
    assert text_of(tokenizer, b"xabcd", ("bc", "abc")) == "x"


def test_special_tokens_are_left_out_but_for_those_to_be_shown():
    tokenizer = bytes_tokenizer()
    ids = [*b"a", tokenizer.specials["<|user|>"], *b"b", tokenizer.specials[END_OF_TEXT]]

    assert text_of(tokenizer, ids) == "ab"
    assert text_of(tokenizer, ids, shown=("<|user|>",)) == "a<|user|>b"
    assert text_of(tokenizer, ids, ("user",), shown=("<|user|>",)) == "a<|"


@pytest.mark.parametrize("name", ["llama", "metaspace"])
def test_a_continuation_keeps_its_leading_blank(name: str):
    tokenizer = family(name)
    ids = tokenizer.encode("the sea").tolist()

    assert text_of(tokenizer, ids) == "the sea"
    assert text_of(tokenizer, ids, begins=False) == " the sea"


def test_a_decoder_that_joins_words_is_refused():
    """WordPiece's rules for blanks and punctuation look at neighbours."""
    library = Library(models.WordPiece({"[UNK]": 0, "a": 1, "[SEP]": 2}, unk_token="[UNK]"))
    library.decoder = decoders.WordPiece()

    with pytest.raises(TokenizerInvalid, match="WordPiece"):
        text_of(Tokenizer(library, "hf"), [1])
    library.decoder = None
    with pytest.raises(TokenizerInvalid, match="no decoder"):
        text_of(Tokenizer(library, "hf"), [1])


def test_tokens_join_to_the_bytes_and_offsets_count_characters(tokenizer: Tokenizer):
    draw = random.Random(8)
    for _ in range(200):
        ids = [i for i in some_ids(tokenizer, draw) if i < tokenizer.vocab]
        pieces = Pieces(tokenizer, offset=7).push(ids)

        plain = [p for p, i in zip(pieces, ids, strict=True) if i not in tokenizer.specials.values()]
        text = b"".join(p.bytes for p in plain).decode(errors="replace")
        assert text == text_of(tokenizer, ids)
        assert all(
            text[p.offset - 7 :].startswith(p.text)
            for p in plain
            if not p.text.startswith("bytes:") and "\ufffd" not in text
        )
        assert [p.offset for p in pieces] == sorted(p.offset for p in pieces)


def test_bytes_that_are_no_text_are_spelled_out():
    tokenizer = bytes_tokenizer()

    assert shown(b"\xe2\x80") == r"bytes:\xe2\x80"
    assert piece_of(tokenizer, 0xE2).text == r"bytes:\xe2"
    assert piece_of(tokenizer, tokenizer.end_of_text).text == END_OF_TEXT
    assert [p.offset for p in Pieces(tokenizer).push([*"é".encode(), *b"ab"])] == [0, 0, 1, 2]


def test_an_empty_stop_string_is_our_bug():
    with pytest.raises(AssertionError):
        TextStream(bytes_tokenizer(), ("",))


def test_the_table_of_bytes_agrees_with_the_count_of_bytes(tokenizer: Tokenizer):
    assert [len(spelt) for spelt in tokenizer.token_bytes] == tokenizer.bytes_of.tolist()
