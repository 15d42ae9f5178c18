"""Small tokenizers of the families that models come with, made here."""

from __future__ import annotations

from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Library

from cerulea.text.tokenizer import Tokenizer, bytes_tokenizer, train_bpe

from ..conftest import prose

BLANK = "\u2581"
FAMILIES = ("bytes", "bpe", "llama", "metaspace", "gemma")


def family(name: str) -> Tokenizer:
    """Byte-level ("bytes", "bpe") or sentencepiece-like with byte fallback, by the three decoders in use."""
    if name == "bytes":
        return bytes_tokenizer()
    if name == "bpe":
        return train_bpe(iter([prose(i, 300) + "日本語 😀 naïve — “quotes”\n" * 3 for i in range(8)]), 330)
    library = Library(models.BPE(**_sentencepiece(), unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    library.add_special_tokens([AddedToken(token, special=True) for token in ("<unk>", "<s>", "</s>")])
    library.add_tokens([AddedToken("<tool_call>", special=False)])
    blanks = decoders.Replace(BLANK, " ")
    if name == "llama":
        library.normalizer = normalizers.Sequence([normalizers.Prepend(BLANK), normalizers.Replace(" ", BLANK)])
        steps = [blanks, decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    elif name == "metaspace":
        library.pre_tokenizer = pre_tokenizers.Metaspace(BLANK, prepend_scheme="first", split=False)
        steps = [decoders.ByteFallback(), decoders.Metaspace(BLANK, prepend_scheme="first", split=False)]
    else:
        library.normalizer = normalizers.Replace(" ", BLANK)
        steps = [blanks, decoders.ByteFallback(), decoders.Fuse()]
    library.decoder = decoders.Sequence(steps)
    return Tokenizer(library, "hf", begin_of_text="<s>")


def _sentencepiece() -> dict:
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"<0x{b:02X}>": 3 + b for b in range(256)}
    merges = []
    for letter in BLANK + "abcdefghijklmnopqrstuvwxyzäé日本語😀.,:{}[]\"'0123456789":
        vocab[letter] = len(vocab)
    for left, right in (
        ("t", "h"),
        ("th", "e"),
        (BLANK, "the"),
        (BLANK, BLANK),
        (BLANK, "a"),
        ("日", "本"),
        ("s", "e"),
    ):
        merges.append((left, right))
        vocab[left + right] = len(vocab)
    return {"vocab": vocab, "merges": merges}
