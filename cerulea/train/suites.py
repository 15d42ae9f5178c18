"""Benchmarks: which files each needs, how they are read, and what is scored of them.

In:      a suite's name, a decoder with its tokenizer, and data: NAME=PATH or folders with files of the usual names.
Out:     {task: {metric: value}}; a task whose file is not there says so under "missing".
Kept:    a protocol never changes with the model; nothing is skipped in silence; a malformed line is refused
         with its file and number; nothing is downloaded.
Not here: file formats (`suite_files`), windows and sums (`evaluate`), undoing tokenisation (`detokenize`).
         docs/evaluation.md gives every protocol in words, beside the published numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from cerulea.core.errors import Invalid, NotFound, SuiteInvalid
from cerulea.nn.decoder import Decoder
from cerulea.text.files import COMPRESSIONS
from cerulea.text.tokenizer import Tokenizer
from cerulea.train import detokenize
from cerulea.train.evaluate import exp, score_endings, score_texts
from cerulea.train.suite_files import cbt_questions, hellaswag_questions, lambada_questions, lines, test_part

_T = TypeVar("_T")
Metrics = dict[str, float | int | str]
Report = Callable[[str, Metrics], None]  # a task's name and its metrics, when it is done

LIMIT_BYTES = 1_000  # of a byte stream that count as one example of a limit


class Task(Protocol):
    """One protocol: read the file, score it, return its metrics."""

    def __call__(
        self, decoder: Decoder, tokenizer: Tokenizer, path: Path, *, limit: int | None, stride: int | None
    ) -> Metrics: ...


@dataclass(frozen=True, slots=True)
class Cell:
    """A data set of a suite: its name, the files it is looked for as (best first, `*` allowed), its protocol."""

    name: str
    files: tuple[str, ...]
    form: str  # what such a file holds, for the person who has to find one
    task: Task


def run_suite(
    name: str,
    decoder: Decoder,
    tokenizer: Tokenizer,
    data: list[str],
    *,
    limit: int | None = None,
    stride: int | None = None,
    report: Report | None = None,
) -> dict[str, Metrics]:
    """Run every cell of a suite whose data is there, in the suite's order.

    Args:
        data: `NAME=PATH` for one data set, or a folder in which all are looked for. A suite of one data set
            takes its file without a name.
        limit: score only the first questions or lines (of enwik8 and text8: thousands of bytes).
        stride: new tokens per window of running text; by default windows stand side by side.

    Raises:
        NotFound: no such suite, file or folder.
        SuiteInvalid: no data set of the suite is there, or a file is malformed.
    """
    if name not in SUITES:
        raise NotFound(f"There is no suite {name!r}.", fix=f"Use one of: {', '.join(SUITES)}.")
    if limit is not None and limit < 1:
        raise Invalid(f"A limit of {limit} examples scores nothing.", fix="Use 1 or more.")
    cells = SUITES[name]
    paths = _find(name, cells, data)
    if not paths:
        wanted = "; ".join(f"{cell.name}: {cell.form} ({' or '.join(cell.files)})" for cell in cells)
        raise SuiteInvalid(
            f"No data set of the suite {name} is in {', '.join(data) or 'the given data (there is none)'}.",
            why=f"It needs any of these. {wanted}.",
            fix=f"--data FOLDER, or --data {cells[0].name}=FILE",
        )
    tasks: dict[str, Metrics] = {}
    for cell in cells:
        if path := paths.get(cell.name):
            tasks[cell.name] = {**cell.task(decoder, tokenizer, path, limit=limit, stride=stride), "file": str(path)}
        else:
            tasks[cell.name] = {
                "missing": f"{cell.form}: looked for {' or '.join(cell.files)}. Give it: --data {cell.name}=FILE"
            }
        if report is not None:
            report(cell.name, tasks[cell.name])
    return tasks


def _find(suite: str, cells: tuple[Cell, ...], data: list[str]) -> dict[str, Path]:
    """Where each data set lies; a name that was given goes before a folder, folders in their order."""
    names = [cell.name for cell in cells]
    given: dict[str, Path] = {}
    folders: list[Path] = []
    for entry in data:
        name, sign, rest = entry.partition("=")
        if sign and name in names:
            given[name] = Path(rest).expanduser()
            if not given[name].is_file():
                raise NotFound(f"There is no file {rest} for {name}.", fix="Check the path.")
        elif (path := Path(entry).expanduser()).is_dir():
            folders.append(path)
        elif path.is_file():
            if len(cells) > 1:
                raise SuiteInvalid(
                    f"{entry} does not say which data set of {suite} it is.",
                    fix=f"--data NAME={entry}, where NAME is one of: {', '.join(names)}.",
                )
            given[names[0]] = path
        elif sign:
            raise SuiteInvalid(
                f"The suite {suite} has no data set {name!r}.", fix=f"NAME=PATH takes one of: {', '.join(names)}."
            )
        else:
            raise NotFound(f"There is no file or folder {entry}.", fix="Check the path.")
    for cell in cells:
        for folder in folders:
            if cell.name not in given and (found := _look(cell, folder)):
                given[cell.name] = found
    return given


def _look(cell: Cell, folder: Path) -> Path | None:
    for pattern in cell.files:
        for suffix in ("", *COMPRESSIONS):
            found = [path for path in sorted(folder.glob(pattern + suffix)) if path.is_file()]
            if len(found) > 1:
                raise SuiteInvalid(
                    f"{folder} has several files for {cell.name}: {', '.join(path.name for path in found)}.",
                    fix=f"Name one: --data {cell.name}=FILE",
                )
            if found:
                return found[0]
    return None


# Tasks.


def hellaswag(decoder: Decoder, tokenizer: Tokenizer, path: Path, *, limit: int | None, stride: int | None) -> Metrics:
    """Four endings of a scene: highest summed log-probability (acc), per byte (acc_norm), per token."""
    questions = _some(path, hellaswag_questions(path), limit)
    hits = np.zeros(3, np.int64)
    scored = score_endings(decoder, tokenizer, ((context, endings) for context, endings, _ in questions))
    for endings, (_, _, label) in zip(scored, questions, strict=True):
        hits += [score.argmax() == label for score in (endings.log_prob, endings.per_byte, endings.per_token)]
    acc, acc_norm, acc_token_norm = (hits / len(questions)).tolist()
    return {"acc": acc, "acc_norm": acc_norm, "acc_token_norm": acc_token_norm, "questions": len(questions)}


def lambada(decoder: Decoder, tokenizer: Tokenizer, path: Path, *, limit: int | None, stride: int | None) -> Metrics:
    """The last word of a passage: its perplexity, and whether greedy decoding gives it; also its last token alone."""
    questions = _some(path, lambada_questions(path), limit)
    scored = list(score_endings(decoder, tokenizer, ((context, endings) for context, endings, _ in questions)))
    return {
        "perplexity": exp(-float(np.mean([s.log_prob[0] for s in scored]))),
        "acc": float(np.mean([s.greedy[0] for s in scored])),
        "last_token_perplexity": exp(-float(np.mean([s.last_log_prob[0] for s in scored]))),
        "last_token_acc": float(np.mean([s.last_greedy[0] for s in scored])),
        "questions": len(questions),
    }


def cbt(decoder: Decoder, tokenizer: Tokenizer, path: Path, *, limit: int | None, stride: int | None) -> Metrics:
    """Ten words for one gap: highest log-probability of the word and all that follows it in the sentence."""
    questions = _some(path, cbt_questions(path), limit)
    scored = score_endings(decoder, tokenizer, ((context, endings) for context, endings, _ in questions))
    hits = sum(int(s.log_prob.argmax() == label) for s, (_, _, label) in zip(scored, questions, strict=True))
    return {"acc": hits / len(questions), "questions": len(questions)}


def words(
    decoder: Decoder,
    tokenizer: Tokenizer,
    path: Path,
    *,
    limit: int | None,
    stride: int | None,
    undo: Callable[[str], str],
    line_by_line: bool = False,
) -> Metrics:
    """Running text of a word-level benchmark, scored after `undo`, measured per word and byte of the file as it is.

    A word is what stands between blanks; the end of each line counts as one more, as these benchmarks do.
    """
    given = _some(path, (line for _, line in lines(path)), limit)
    undone = [undo(line) + "\n" for line in given]
    texts = [[line] for line in undone] if line_by_line else [["".join(undone)]]
    score = score_texts(decoder, tokenizer, texts, stride=stride)
    count = sum(len(line.split()) + 1 for line in given)
    size = sum(len(line.encode()) + 1 for line in given)
    return {
        "word_perplexity": exp(score.nats / count),
        "token_perplexity": score.perplexity,
        "bits_per_byte": score.nats / math.log(2) / size,
        "words": count,
        "lines": len(given),
        "tokens": score.tokens,
        "bytes": size,
    }


def characters(decoder: Decoder, tokenizer: Tokenizer, path: Path, *, limit: int | None, stride: int | None) -> Metrics:
    """The last 5,000,000 bytes of enwik8 or text8 as one text; a file of any other size is taken whole."""
    text = test_part(path, None if limit is None else limit * LIMIT_BYTES)
    score = score_texts(decoder, tokenizer, [[text]], stride=stride)
    return {
        "bits_per_byte": score.bits_per_byte,
        "token_perplexity": score.perplexity,
        "tokens": score.tokens,
        "bytes": score.bytes,
    }


def _some(path: Path, items: Iterator[_T], limit: int | None) -> list[_T]:
    found = list(islice(items, limit))
    if not found:
        raise SuiteInvalid(f"{path} has nothing to score.", fix="Check the file.")
    return found


def _wikitext_files(folder: str) -> tuple[str, ...]:
    return (f"{folder}/wiki.test.tokens", f"{folder}-raw/wiki.test.raw", f"{folder}/wiki.test.raw")


_WIKITEXT_FORM = "WikiText's test part, tokenised or raw"
_HELLASWAG = Cell(
    "hellaswag",
    ("hellaswag_val.jsonl", "hellaswag[_-]val*.jsonl"),
    "HellaSwag's validation part as JSON lines",
    hellaswag,
)
_LAMBADA = Cell(
    "lambada",
    ("lambada_test.jsonl", "lambada_test_en.jsonl", "lambada.jsonl", "lambada*.jsonl"),
    'LAMBADA\'s test part as JSON lines {"text"}',
    lambada,
)
_WIKITEXT2 = Cell(
    "wikitext2",
    (*_wikitext_files("wikitext-2"), "wikitext-2/test.txt"),
    _WIKITEXT_FORM,
    partial(words, undo=detokenize.wikitext),
)
SUITES: dict[str, tuple[Cell, ...]] = {
    "gpt2-table3": (
        _LAMBADA,
        Cell("cbt-cn", ("cbtest_CN_valid_2000ex.txt", "*/cbtest_CN_valid_2000ex.txt"), "CBT's common nouns", cbt),
        Cell("cbt-ne", ("cbtest_NE_valid_2000ex.txt", "*/cbtest_NE_valid_2000ex.txt"), "CBT's named entities", cbt),
        _WIKITEXT2,
        Cell("ptb", ("ptb.test.txt", "*/ptb.test.txt"), "Penn Treebank", partial(words, undo=detokenize.english)),
        Cell("enwik8", ("enwik8", "enwik8.test"), "enwik8 (100,000,000 bytes), or its test part", characters),
        Cell("text8", ("text8", "text8.test"), "text8 (100,000,000 bytes), or its test part", characters),
        Cell(
            "wikitext103",
            _wikitext_files("wikitext-103"),
            _WIKITEXT_FORM,
            partial(words, undo=detokenize.wikitext),
        ),
        Cell(
            "1bw",
            ("news.en.heldout-00000-of-00050", "*/news.en.heldout-00000-of-00050", "1bw.test.txt"),
            "One Billion Word's held-out part, a sentence a line",
            partial(words, undo=detokenize.english, line_by_line=True),
        ),
    ),
    "hellaswag": (_HELLASWAG,),
    "lambada": (_LAMBADA,),
    "wikitext2": (_WIKITEXT2,),
}
