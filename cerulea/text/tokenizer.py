"""Tokenizers: bytes, byte-level BPE trained here, GPT-2's own, or any Hugging Face tokenizer.json.

In:      text (str).
Out:     token ids, and text again; the number of bytes behind each id.
Kept:    `encode` treats its text as plain text: a document that spells `<|endoftext|>` gets no special token.
         The fast path gives exactly the ids of the `tokenizers` library, which stays the one that decides.
Not here: where the training text comes from (`shards`), chat layout (`chat`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers, trainers

from cerulea.core.errors import NotFound, TokenizerInvalid
from cerulea.text.spelling import Spelling, byte_letters, spell

END_OF_TEXT = "<|endoftext|>"
CHAT_TOKENS = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
SPECIALS = (END_OF_TEXT, *CHAT_TOKENS)
KINDS = ("bytes", "bpe", "gpt2", "hf")
# End-of-text under the names that known families give it, best first.
END_NAMES = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<|im_end|>", "<eos>", "[SEP]")
LONGEST_CACHED = 64  # characters of a chunk that is kept; longer ones seldom come again and would fill the memory
CACHED_CHUNKS = 2_000_000  # words kept with their ids; beyond that the cache starts anew

# Unicode's White_Space, which is what the library's \s means; Python's differs in U+001C to U+001F.
_SPACE = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
# Words with their leading space, or runs of white space as GPT-2's pattern cuts them. Every match is a
# whole number of GPT-2's words, so that matches can be encoded alone.
_CHUNK = re.compile(rf" ?[^{_SPACE}]+|[{_SPACE}]+(?![^{_SPACE}])|[{_SPACE}]+")


class Tokenizer:
    """One tokenizer of any kind, made by the functions below.

    Attributes:
        vocab: number of ids, special tokens included.
        end_of_text: the id that stands after every document, and ends what a model writes.
        begin_of_text: the id that a text begins with; end_of_text but for families that have one of their own.
        digest: sha256 over all that decides the ids.
        bytes_of: int32 (vocab,), UTF-8 bytes behind each id; 0 for special tokens.
    """

    def __init__(
        self, library: Library, kind: str, *, end_of_text: str | None = None, begin_of_text: str | None = None
    ) -> None:
        self.library, self.kind = library, kind
        library.encode_special_tokens = True
        library.no_truncation()
        library.no_padding()
        self.vocab = max(library.get_vocab().values()) + 1
        end = end_of_text or next((name for name in END_NAMES if library.token_to_id(name) is not None), None)
        if end is None or library.token_to_id(end) is None:
            raise TokenizerInvalid(
                "The tokenizer has no end-of-text token.",
                why=f"One of these is expected: {', '.join(END_NAMES)}.",
                fix="Add one to tokenizer.json (added_tokens).",
            )
        self.end_of_text_token = end
        self.end_of_text = int(library.token_to_id(end) or 0)
        begin = begin_of_text if begin_of_text and library.token_to_id(begin_of_text) is not None else end
        self.begin_of_text_token = begin
        self.begin_of_text = int(library.token_to_id(begin) or 0)
        self.specials = {t.content: i for i, t in library.get_added_tokens_decoder().items() if t.special}
        self.digest = hashlib.sha256(_canonical(library)).hexdigest()
        self.dtype = np.dtype(np.uint16 if self.vocab <= 1 << 16 else np.uint32)
        self.bytes_of = self._count_bytes()
        self._byte_level = _is_byte_level(library)
        self._cache: dict[str, bytes] = {}

    def encode(self, text: str) -> np.ndarray:
        """Ids of plain text, in the smallest unsigned dtype that holds the vocabulary."""
        return np.frombuffer(self.encode_packed([text])[0], self.dtype)

    def encode_prompt(self, text: str, show: Callable[[str], str] = str) -> list[int]:
        """Ids of a prompt in which special tokens may be spelled out.

        Args:
            show: what plain text between them is read as; for texts in which something was hidden (`chat.Spelt`).
        """
        special = {s: i for s, i in self.specials.items() if s}
        if not special:
            return [int(i) for i in self.encode(show(text))]
        parts = re.split("(" + "|".join(re.escape(s) for s in sorted(special, key=len, reverse=True)) + ")", text)
        ids: list[int] = []
        for part in parts:
            ids.extend([special[part]] if part in special else (int(i) for i in self.encode(show(part))))
        return ids

    def encode_packed(self, texts: list[str]) -> list[bytes]:
        """Ids of each text as the bytes of an array of `dtype`."""
        if self.kind == "bytes":
            return [np.frombuffer(text.encode(), np.uint8).astype(self.dtype).tobytes() for text in texts]
        if not self._byte_level:
            encodings = self.library.encode_batch_fast(texts, add_special_tokens=False)
            return [np.array(encoding.ids, self.dtype).tobytes() for encoding in encodings]
        chunks_of = [_CHUNK.findall(text) for text in texts]
        if len(self._cache) > CACHED_CHUNKS:
            self._cache.clear()
        fresh = set().union(*chunks_of).difference(self._cache)
        rare = {chunk: self._encode_alone(chunk) for chunk in fresh if len(chunk) > LONGEST_CACHED}
        self._learn(fresh.difference(rare))
        if rare:
            return [b"".join(rare.get(chunk) or self._cache[chunk] for chunk in chunks) for chunks in chunks_of]
        return [b"".join(map(self._cache.__getitem__, chunks)) for chunks in chunks_of]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids; special tokens are left out, broken UTF-8 becomes U+FFFD."""
        known = self.vocab
        return self.library.decode([int(i) for i in ids if i < known], skip_special_tokens=True)

    @cached_property
    def spelling(self) -> Spelling:
        """The bytes behind each id, for writing text token by token."""
        return spell(self.library)

    @property
    def token_bytes(self) -> tuple[bytes, ...]:
        """Bytes by id; b"" for special tokens."""
        return self.spelling.table

    def save(self, folder: Path) -> None:
        """Write tokenizer.json and the two small files that Hugging Face's loaders look for."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tokenizer.json").write_text(self.library.to_str(pretty=False), encoding="utf-8")
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": self.begin_of_text_token,
            "eos_token": self.end_of_text_token,
            "clean_up_tokenization_spaces": False,
            "cerulea_kind": self.kind,
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    def _encode_alone(self, chunk: str) -> bytes:
        return np.array(self.library.encode(chunk, add_special_tokens=False).ids, self.dtype).tobytes()

    def _learn(self, chunks: set[str]) -> None:
        """Put the ids of new chunks into the cache, most of them through one long text.

        Chunks joined by newlines are encoded as they are alone, since a single newline before a word is a
        word of its own in GPT-2's pattern; the bytes behind each id then tell where a chunk ends.
        """
        words = [chunk for chunk in chunks if not chunk[-1].isspace() and chunk.isprintable()]
        rest = chunks.difference(words)
        for chunk in rest:
            self._cache[chunk] = self._encode_alone(chunk)
        size = 4096
        groups = [words[i : i + size] for i in range(0, len(words), size)]
        joined = ["\n" + "\n".join(group) for group in groups]
        for group, encoding in zip(
            groups, self.library.encode_batch_fast(joined, add_special_tokens=False), strict=True
        ):
            ids = np.array(encoding.ids, self.dtype)
            ends = np.cumsum(self.bytes_of[ids])
            stops = np.cumsum([len(word.encode()) + 1 for word in group])
            last = np.searchsorted(ends, stops) + 1
            first = 0
            for word, stop in zip(group, last.tolist(), strict=True):
                self._cache[word] = ids[first + 1 : stop].tobytes()
                first = stop

    def _count_bytes(self) -> np.ndarray:
        counts = np.zeros(self.vocab, np.int32)
        letters = byte_letters()
        byte_level = "ByteLevel" in json.dumps(json.loads(self.library.to_str()).get("decoder"))
        added = self.library.get_added_tokens_decoder()
        for token, i in self.library.get_vocab().items():
            if i in added:
                # An added token that is not special is text as it stands (runs of blanks, for example).
                counts[i] = 0 if added[i].special else len(token.encode())
            elif byte_level:
                counts[i] = sum(1 for letter in token if letter in letters)
            elif re.fullmatch(r"<0x[0-9A-F]{2}>", token):
                counts[i] = 1
            else:
                counts[i] = len(token.replace("\u2581", " ").encode())
        return counts


def bytes_tokenizer() -> Tokenizer:
    """256 bytes and the special tokens; id = byte."""
    return _finished(Library(models.BPE(vocab=byte_letters(), merges=[])), "bytes")


def train_bpe(texts: Iterator[str], vocab: int) -> Tokenizer:
    """Train byte-level BPE with exactly `vocab` ids, special tokens included.

    Raises:
        TokenizerInvalid: fewer ids than bytes and special tokens, or a text too small for so many.
    """
    least = 256 + len(SPECIALS)
    if vocab < least:
        raise TokenizerInvalid(
            f"A vocabulary of {vocab} is too small for BPE.",
            why=f"256 bytes and {len(SPECIALS)} special tokens come first.",
            fix=f"Set tokenizer.vocab to {least} or more, or tokenizer.kind to bytes.",
        )
    library = Library(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab - len(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    library.train_from_iterator(texts, trainer)
    if library.get_vocab_size() < vocab - len(SPECIALS):
        raise TokenizerInvalid(
            f"The training text gives only {library.get_vocab_size() + len(SPECIALS)} of {vocab} ids.",
            why="There are no more pairs of tokens to merge.",
            fix=f"Give more text, or ask for fewer: --set tokenizer.vocab={_below(library.get_vocab_size(), least)}",
        )
    return _finished(library, "bpe")


def _below(size: int, least: int) -> int:
    """A vocabulary that a text of so many tokens has for certain: rounded down to 64."""
    return max(least, size // 64 * 64)


def gpt2_tokenizer(folder: Path) -> Tokenizer:
    """OpenAI's GPT-2 vocabulary from its two files, under either of their usual names.

    Raises:
        NotFound: the folder lacks one of them.
    """
    vocab = _first_file(folder, ("encoder.json", "vocab.json"))
    merges = _first_file(folder, ("vocab.bpe", "merges.txt"))
    try:
        ids = json.loads(vocab.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TokenizerInvalid(f"{vocab} is not JSON: {error}.", fix="Restore that file.") from error
    # Only the first line is a comment: some merges begin with '#'.
    lines = merges.read_text(encoding="utf-8").split("\n")
    lines = lines[1:] if lines[0].startswith("#version") else lines
    try:
        pairs = [(left, right) for left, right in (line.split() for line in lines if line.strip())]
        library = Library(models.BPE(vocab=ids, merges=pairs))
    except Exception as error:  # a line of other than two parts; the library raises bare Exception
        raise TokenizerInvalid(
            f"{merges} does not fit {vocab}: {error}.", fix="Use the two files of one model."
        ) from error
    return _finished(library, "gpt2", specials=(END_OF_TEXT,))


def load_tokenizer(folder: Path) -> Tokenizer:
    """Any tokenizer.json, in a folder or given itself; GPT-2's two files where there is none.

    Raises:
        NotFound: neither is there.
        TokenizerInvalid: the file is no tokenizer.
    """
    path = folder if folder.is_file() else folder / "tokenizer.json"
    if not path.exists():
        return gpt2_tokenizer(folder)
    try:
        library = Library.from_file(str(path))
    except Exception as error:  # the library raises bare Exception for malformed files
        raise TokenizerInvalid(
            f"{path} is no tokenizer: {error}.", fix="Give a Hugging Face tokenizer.json."
        ) from error
    config_path = path.with_name("tokenizer_config.json")
    try:
        config = json.loads(config_path.read_text(encoding="utf-8")) if config_path.exists() else {}
        names = [config.get(key) for key in ("eos_token", "bos_token")]
    except (ValueError, AttributeError) as error:
        raise TokenizerInvalid(f"{config_path} is no tokenizer config: {error}.", fix="Restore that file.") from error
    end, begin = (name.get("content") if isinstance(name, dict) else name for name in names)
    return Tokenizer(library, config.get("cerulea_kind", "hf"), end_of_text=end, begin_of_text=begin)


def _finished(library: Library, kind: str, specials: tuple[str, ...] = SPECIALS) -> Tokenizer:
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    library.decoder = decoders.ByteLevel()
    library.add_special_tokens(list(specials))
    return Tokenizer(library, kind)


def _first_file(folder: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise NotFound(
        f"{folder} has no {' or '.join(names)}.",
        why="A tokenizer is a tokenizer.json, or GPT-2's two files.",
        fix="Set tokenizer.folder to the folder that holds them.",
    )


def _canonical(library: Library) -> bytes:
    return json.dumps(json.loads(library.to_str()), sort_keys=True, ensure_ascii=False).encode()


def _is_byte_level(library: Library) -> bool:
    """Whether words are GPT-2's: its pattern, no normaliser, no prefix space. Only then the fast path holds."""
    spec = json.loads(library.to_str())
    before = spec.get("pre_tokenizer") or {}
    return (
        spec.get("normalizer") is None
        and before.get("type") == "ByteLevel"
        and not before.get("add_prefix_space")
        and bool(before.get("use_regex", True))
        and not any(not token["special"] for token in spec.get("added_tokens", []))
        and not spec["model"].get("dropout")
        # A byte without a token would be dropped, and shift all that follows.
        and byte_letters().keys() <= spec["model"].get("vocab", {}).keys()
    )
