"""Tokenizers against the libraries that decide: `tokenizers` and tiktoken."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st
from tiktoken.load import data_gym_to_mergeable_bpe_ranks
from tokenizers import Tokenizer as Library
from tokenizers import models, pre_tokenizers

from cerulea.core.errors import NotFound, TokenizerInvalid
from cerulea.text.tokenizer import (
    SPECIALS,
    Tokenizer,
    bytes_tokenizer,
    gpt2_tokenizer,
    load_tokenizer,
    train_bpe,
)

from ..conftest import prose

GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"


def mixed_unicode(size: int) -> str:
    """About `size` bytes of every script, blanks of every kind, digits, marks and symbols."""
    draw = random.Random(7)
    letters = [chr(c) for c in range(0x20, 0x3000) if not 0xD800 <= c < 0xE000]
    letters += list("\n\t \r\x0b\x0c\x1c\x1d\x1e\x1f\x85\xa0\u2028\u3000  ") * 200
    letters += [chr(draw.randrange(0x10000, 0x1FFFF)) for _ in range(3000)]
    wild = "".join(draw.choice(letters) for _ in range(size // 6))
    words = " ".join("".join(draw.choice("ab'é9²Ⅷ.,s \n") for _ in range(draw.randrange(9))) for _ in range(size // 20))
    return wild + words + prose(1, size // 12) + "it's we're I'd they'll CAN'T 'tis\n\n  \n x  y\n" * 50


@pytest.fixture(scope="module")
def bpe() -> Tokenizer:
    return train_bpe(iter([prose(i, 500) for i in range(20)]), 320)


def test_gpt2_ids_equal_the_reference_on_a_megabyte_of_mixed_unicode(shared: Path):
    """Judge: tiktoken, from the same two files."""
    folder = shared / "gpt2-bpe"
    ranks = data_gym_to_mergeable_bpe_ranks(str(folder / "vocab.bpe"), str(folder / "encoder.json"))
    judge = tiktoken.Encoding("gpt2", pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens={})
    text = mixed_unicode(2_600_000)
    assert len(text.encode()) > 1_000_000

    ours = gpt2_tokenizer(folder)

    assert ours.encode(text).tolist() == judge.encode_ordinary(text)
    assert ours.decode(ours.encode(text)) == text
    assert (ours.vocab, ours.end_of_text) == (50257, 50256)


def test_the_fast_path_gives_the_ids_of_the_library(bpe: Tokenizer):
    text = mixed_unicode(300_000)

    assert bpe.encode(text).tolist() == bpe.library.encode(text, add_special_tokens=False).ids


@given(st.text())
def test_any_text_comes_back_whole(text: str):
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    for tokenizer in (BYTES, BPE):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.bytes_of[ids].sum() == len(text.encode())
        assert ids.tolist() == tokenizer.library.encode(text, add_special_tokens=False).ids


BYTES = bytes_tokenizer()
BPE = train_bpe(iter([prose(i, 500) for i in range(20)]), 320)


def test_ten_thousand_random_byte_strings_come_back(bpe: Tokenizer):
    draw = random.Random(3)
    for _ in range(10_000):
        text = draw.randbytes(draw.randrange(40)).decode("latin1")
        assert bpe.decode(bpe.encode(text)) == text


def test_a_byte_is_its_own_id():
    ids = bytes_tokenizer().encode("aä\n")

    assert ids.tolist() == list("aä\n".encode())


@pytest.mark.parametrize("vocab", [261, 300, 320])
def test_a_trained_vocabulary_has_exactly_the_size_asked_for(vocab: int):
    tokenizer = train_bpe(iter([prose(i, 500) for i in range(20)]), vocab)

    assert tokenizer.vocab == vocab
    assert set(tokenizer.specials) == set(SPECIALS)


@pytest.mark.parametrize(("vocab", "message"), [(200, "too small for BPE"), (5000, "gives only")])
def test_a_vocabulary_that_cannot_be_is_refused(vocab: int, message: str):
    with pytest.raises(TokenizerInvalid, match=message):
        train_bpe(iter([prose(1, 300)]), vocab)


def test_the_refusal_of_too_large_a_vocabulary_names_one_that_the_text_has():
    text = prose(1, 3000)
    with pytest.raises(TokenizerInvalid) as refused:
        train_bpe(iter([text]), 5000)

    named = int(refused.value.fix.rpartition("=")[2])

    assert train_bpe(iter([text]), named).vocab == named


def test_a_document_that_spells_a_special_token_gets_none(bpe: Tokenizer):
    """Only a prompt may spell them."""
    text = "a<|endoftext|>b"

    assert bpe.end_of_text not in bpe.encode(text)
    assert bpe.decode(bpe.encode(text)) == text
    assert bpe.end_of_text in bpe.encode_prompt(text)


def test_a_tokenizer_written_and_read_is_the_same(tmp_path: Path, bpe: Tokenizer):
    bpe.save(tmp_path)

    again = load_tokenizer(tmp_path)

    assert again.digest == bpe.digest
    assert again.kind == "bpe"
    assert again.encode("what lay under").tolist() == bpe.encode("what lay under").tolist()


def test_a_hugging_face_tokenizer_that_is_not_gpt2_shaped_is_read_by_its_library(tmp_path: Path):
    """WordLevel with a blank splitter: the fast path must not touch it."""
    library = Library(models.WordLevel({"a": 0, "b": 1, "[UNK]": 2, "<eos>": 3}, unk_token="[UNK]"))
    library.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    library.add_special_tokens(["<eos>"])
    library.save(str(tmp_path / "tokenizer.json"))

    tokenizer = load_tokenizer(tmp_path)

    assert tokenizer.encode("a b  c").tolist() == [0, 1, 2]
    assert tokenizer.end_of_text == 3


def test_files_that_are_no_tokenizer_are_refused(tmp_path: Path):
    with pytest.raises(NotFound, match=r"has no encoder\.json or vocab\.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps({"nothing": 1}))
    with pytest.raises(TokenizerInvalid, match="is no tokenizer"):
        load_tokenizer(tmp_path)


def test_ids_fit_the_smallest_dtype(bpe: Tokenizer):
    assert bpe.encode("water").dtype == np.uint16


def test_a_byte_level_tokenizer_that_lacks_bytes_is_left_to_its_library(tmp_path: Path):
    """The fast path would drop what it cannot count."""
    from tokenizers import decoders, trainers

    library = Library(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    library.train_from_iterator(["hello world abc"] * 5, trainers.BpeTrainer(vocab_size=40, show_progress=False))
    library.add_special_tokens(["<eos>"])
    library.save(str(tmp_path / "tokenizer.json"))
    text = "hello XYZ world abc Q hello world"

    tokenizer = load_tokenizer(tmp_path)

    assert tokenizer.encode(text).tolist() == library.encode(text, add_special_tokens=False).ids


def test_a_family_with_a_first_token_of_its_own_keeps_it(tmp_path: Path, bpe: Tokenizer):
    bpe.save(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, "bos_token": {"content": "<|user|>"}}))

    tokenizer = load_tokenizer(tmp_path)

    assert tokenizer.begin_of_text == tokenizer.specials["<|user|>"]
    assert tokenizer.end_of_text == tokenizer.specials["<|endoftext|>"]
