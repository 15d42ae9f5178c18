"""Undo what old benchmarks did to their text: words set apart from punctuation, marks inside numbers.

In:      one line of a tokenised benchmark, words apart by single spaces.
Out:     the line as a person would have written it, as far as it can be told.
Kept:    no word is changed, added or dropped: only blanks, number marks, brackets' names and quotes' forms are.
         `<unk>`, PTB's `N` and lower case stay, as nobody can tell what stood there.
Not here: which benchmark needs which (`suites`). docs/evaluation.md says where others' rules differ.
"""

from __future__ import annotations

import re

_BRACKETS = {"-LRB-": "(", "-RRB-": ")", "-LSB-": "[", "-RSB-": "]", "-LCB-": "{", "-RCB-": "}"}
_BRACKET = re.compile("|".join(_BRACKETS))
_AFTER = r"(?=[\s\"'.,;:!?)\]}]|$)"  # where a mark ends: before a blank, another mark, or the line's end
_CONTRACTION = re.compile(rf" (n't|'(?:s|t|re|ve|m|ll|d)){_AFTER}", re.IGNORECASE)
_CLOSER = re.compile(rf" ([.,;:!?%)\]}}]){_AFTER}")
_OPENER = re.compile(r"(?<!\S)([(\[{$£#]) (?=\S)")
_QUOTED = re.compile(r'(?<!\S)" ([^"]*?) "(?!\S)')
_QUOTED_BEFORE_MARK = re.compile(r'(?<!\S)" ([^"]*?) "(?=[.,;:!?)\]}])')
_PLURAL = re.compile(r"(?<=s) '(?!\S)")
_NUMBER_MARK = re.compile(r" @([-,.])@(?: |$)")
_HEADING = re.compile(r"^(=(?: =)*) (.*) \1$")


def english(line: str) -> str:
    """Join punctuation, contractions, brackets and quotes to their words (1BW, PTB, CBT).

    Penn Treebank's brackets (-LRB-) and quotes (`` and '') become the usual ones.
    """
    line = _BRACKET.sub(lambda match: _BRACKETS[match[0]], line.strip())
    # Treebank quotes say themselves which side they are.
    line = re.sub(r"(?<!\S)`` ?", '"', line)
    line = re.sub(r"(?:^| )''(?!\S)", '"', line)
    line = re.sub(r"(?<!\S)` ?", "'", line)
    line = _CONTRACTION.sub(r"\1", line)
    line = _CLOSER.sub(r"\1", line)
    line = _OPENER.sub(r"\1", line)
    # Plain quotes are taken in pairs; a lone one stays apart.
    line = _QUOTED_BEFORE_MARK.sub(r'"\1"', _QUOTED.sub(r'"\1"', line))
    return _PLURAL.sub("'", line)


def wikitext(line: str) -> str:
    """WikiText's ` @-@ `, ` @,@ ` and ` @.@ ` inside words and numbers, its ` = = Heading = = `, and English."""
    line = _NUMBER_MARK.sub(r"\1", line.strip())
    line = _HEADING.sub(lambda match: f"{match[1].replace(' ', '')} {match[2]} {match[1].replace(' ', '')}", line)
    return english(line)


def cbt(line: str) -> str:
    """Children's Book Test: English, and single quotes that close beside a word."""
    line = english(line)
    return re.sub(rf" '{_AFTER}", "'", line)
