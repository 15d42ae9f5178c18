"""Every error that a person can meet, as one tree.

    CeruleaError                 exit code 1: the work was tried and failed
    ├── Invalid                  2: what was typed or given cannot be right
    │   ├── CommandInvalid         an unknown command or option, a missing argument
    │   ├── RecipeInvalid          an unknown key, a wrong type, a value out of range
    │   ├── ShapeInvalid           a model shape that cannot exist
    │   ├── CorpusInvalid          missing, empty, not UTF-8, a line without its field
    │   │   └── HeldOutTooShort      fewer held-out tokens than one context
    │   ├── TokenizerInvalid       files that are no tokenizer, ids that do not fit
    │   ├── PromptTooLong          more tokens than the model's context
    │   ├── ArchitectureUnknown    a Hugging Face folder of a family we do not read
    │   ├── WeightsInvalid         tensors missing, left over or of another shape
    │   ├── PickleRefused          a file that could run code when it is opened
    │   ├── SuiteInvalid           an evaluation data set that is missing or malformed
    │   └── NotFound               no model, run, recipe or file of that name
    ├── Failed                   1
    │   ├── FileTrouble            a file or folder cannot be read or written
    │   ├── CheckpointUnusable     no checkpoint in the folder verifies
    │   ├── CheckpointNotWritten   the disk is full or refuses; the last one is whole
    │   └── TrainingDiverged       too many steps in a row without a finite gradient
    └── Conflict                 5: it clashes with what is there
        └── ResumeMismatch         a checkpoint of another recipe, corpus or tokenizer

An error says what happened, why, and what to type next; its code never changes. `assert` is for
our own bugs and never for these. docs/errors.md is generated from this file.
"""

from __future__ import annotations


class CeruleaError(Exception):
    """Base of all errors that are shown without a traceback.

    Args:
        what: what happened, one sentence, with the names and numbers at hand.
        why: the rule behind it, one sentence, or nothing when it is plain.
        fix: what to type or change next.
    """

    code = "E-ALL-001"
    exit_code = 1

    def __init__(self, what: str, *, why: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.fix = fix

    def __str__(self) -> str:
        return " ".join(part for part in (self.what, self.why, self.fix) if part)

    def as_json(self) -> dict[str, str]:
        """The error as one JSON object: code, what, why, fix."""
        return {"code": self.code, "what": self.what, "why": self.why, "fix": self.fix}


class Invalid(CeruleaError):
    """What was typed or given cannot be right."""

    code = "E-USE-001"
    exit_code = 2


class CommandInvalid(Invalid):
    """An unknown command or option, or a missing argument."""

    code = "E-USE-002"


class RecipeInvalid(Invalid):
    """A recipe has an unknown key, a value of the wrong type, or a value out of range."""

    code = "E-RECIPE-001"


class ShapeInvalid(Invalid):
    """The sizes of a model contradict one another."""

    code = "E-SHAPE-001"


class CorpusInvalid(Invalid):
    """A corpus is missing, empty, not UTF-8, or lacks the named field."""

    code = "E-CORPUS-001"


class HeldOutTooShort(CorpusInvalid):
    """The held-out part of a corpus is shorter than one context."""

    code = "E-CORPUS-002"


class TokenizerInvalid(Invalid):
    """Tokenizer files are missing or malformed."""

    code = "E-TOKENIZER-001"


class PromptTooLong(Invalid):
    """A prompt has more tokens than the model's context."""

    code = "E-PROMPT-001"


class ArchitectureUnknown(Invalid):
    """A Hugging Face folder names an architecture that Cerulea does not read."""

    code = "E-WEIGHTS-001"


class WeightsInvalid(Invalid):
    """A weights file lacks tensors, has too many, or has one of another shape."""

    code = "E-WEIGHTS-002"


class PickleRefused(Invalid):
    """A weights file is a pickle, which can run any code when it is opened."""

    code = "E-WEIGHTS-003"


class SuiteInvalid(Invalid):
    """An evaluation data set is missing or malformed."""

    code = "E-EVAL-001"


class NotFound(Invalid):
    """Nothing of that name exists."""

    code = "E-NAME-001"


class Failed(CeruleaError):
    """The work was started and could not be finished."""

    code = "E-RUN-001"


class FileTrouble(Failed):
    """A file or folder cannot be read or written: permissions, a full disk, a missing folder."""

    code = "E-FILE-001"


class CheckpointUnusable(Failed):
    """No checkpoint in a folder verifies."""

    code = "E-CHECKPOINT-001"


class CheckpointNotWritten(Failed):
    """A checkpoint could not be written; the one before it is whole."""

    code = "E-CHECKPOINT-002"


class TrainingDiverged(Failed):
    """Too many steps in a row had no finite loss or gradient."""

    code = "E-RUN-002"


class Conflict(CeruleaError):
    """It clashes with what is already there."""

    code = "E-CONFLICT-001"
    exit_code = 5


class ResumeMismatch(Conflict):
    """A checkpoint was made with another recipe, corpus or tokenizer."""

    code = "E-RESUME-001"
