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
    │   ├── NoChatTemplate         a conversation with a model that knows only texts
    │   ├── ArchitectureUnknown    a Hugging Face folder of a family we do not read
    │   ├── WeightsInvalid         tensors missing, left over or of another shape
    │   ├── PickleRefused          a file that could run code when it is opened
    │   ├── SuiteInvalid           an evaluation data set that is missing or malformed
    │   ├── GrammarInvalid         a JSON schema or grammar that nothing can meet
    │   ├── MoneyInvalid           an amount, a price or a date that cannot be
    │   ├── JobKindUnknown         a job of a kind that nobody runs
    │   ├── ModelKindWrong         an agent where a language model is needed, or the other way round
    │   ├── ActionIllegal          an action that the game forbids now
    │   ├── GameInvalid            a game that does not exist, or cannot be learned
    │   ├── ReplayInvalid          a replay that is damaged, or of another version of its game
    │   └── NotFound               no model, run, job, fund, team or file of that name
    │       └── UnknownSeat          no such place in a match, or it is not yours
    ├── Failed                   1
    │   ├── FileTrouble            a file or folder cannot be read or written
    │   ├── CheckpointUnusable     no checkpoint in the folder verifies
    │   ├── CheckpointNotWritten   the disk is full or refuses; the last one is whole
    │   ├── TrainingDiverged       too many steps in a row without a finite gradient
    │   ├── GameBroken             a game that breaks the rules of the protocol
    │   ├── ModelTooLarge          a model needs more memory than it may have
    │   ├── EngineFailed           a step of an engine failed, or its process ended
    │   └── BooksDiffer            an audit found what does not add up
    ├── Refused                  3: money says no
    │   ├── FundTooLow             more was asked for than a fund or a team has available
    │   └── CapReached             a cap on a team, a key, a month or a job would be passed
    ├── NotAllowed               4: this caller may not
    │   ├── KeyUnknown             no key, or one that nobody issued
    │   ├── KeyEnded               a key that was revoked or has expired
    │   ├── RoleLacks              the caller's role does not include it
    │   └── PathRefused            a recipe names a file outside the folders that jobs may read
    ├── Unreachable              6: a server or database does not answer
    │   └── Busy                   not now; the same call may go through later
    │       ├── RateLimited          a key's requests or tokens of this minute are used up
    │       ├── QueueFull            too much waits already
    │       └── NotReady             a model is being loaded, or the server is about to stop
    │           └── ModelLoading       it is being loaded; whoever asks again finds it
    └── Conflict                 5: it clashes with what is there
        ├── ResumeMismatch         a checkpoint of another recipe, corpus or tokenizer
        │   └── ResumeDiffers        not the checkpoint that the platform knows
        ├── AgentUnfit             an agent that sees or acts otherwise than the game now has it
        ├── KeyReused              a repeated idempotency key with other contents
        ├── HoldClosed             a hold that was settled, voided or has expired
        ├── EdgeRefused            a job cannot go from its state to that one
        ├── LeaseStale             another attempt owns the job now
        ├── SeatTaken              somebody else plays that place of a match
        ├── ActionLate             an action for a step of a match that is over
        └── DatabaseNewer          the database was written by a newer version

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


class NoChatTemplate(Invalid):
    """A model has no chat template: it was trained on texts and not on conversations."""

    code = "E-PROMPT-002"


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


class GrammarInvalid(Invalid):
    """A JSON schema or a grammar is malformed, or no text can meet it."""

    code = "E-GRAMMAR-001"


class MoneyInvalid(Invalid):
    """An amount, a price or a date of money cannot be what was written."""

    code = "E-MONEY-001"


class JobKindUnknown(Invalid):
    """No program here runs jobs of that kind."""

    code = "E-JOB-003"


class ModelKindWrong(Invalid):
    """A model of another kind is needed: an agent plays games, a language model writes."""

    code = "E-MODEL-003"


class ActionIllegal(Invalid):
    """A game forbids that action at this step."""

    code = "E-MATCH-003"


class GameInvalid(Invalid):
    """A game that does not exist, cannot be made so, or cannot be learned."""

    code = "E-GAME-002"


class ReplayInvalid(Invalid):
    """A replay is cut short, damaged, or of another version of its game."""

    code = "E-GAME-004"


class NotFound(Invalid):
    """Nothing of that name exists."""

    code = "E-NAME-001"


class UnknownSeat(NotFound):
    """A match has no such place, or it is not played by whoever asks."""

    code = "E-MATCH-001"


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


class GameBroken(Failed):
    """A game does not keep the rules that players and trainers rely on."""

    code = "E-GAME-003"


class ModelTooLarge(Failed):
    """A model needs more memory than there is, or than it may have."""

    code = "E-MODEL-001"


class EngineFailed(Failed):
    """A step of an engine failed, or its process ended, while it worked on a request."""

    code = "E-MODEL-002"


class BooksDiffer(Failed):
    """An audit found rows that do not add up, or that were changed after they were sealed."""

    code = "E-AUDIT-001"


class Refused(CeruleaError):
    """There is not enough money, or a rule about money says no."""

    code = "E-FUND-001"
    exit_code = 3


class FundTooLow(Refused):
    """More was asked for than is available."""

    code = "E-FUND-002"


class CapReached(Refused):
    """A cap on a team, a key, a month or a job would be passed."""

    code = "E-FUND-003"


class NotAllowed(CeruleaError):
    """The caller may not do that."""

    code = "E-AUTH-001"
    exit_code = 4


class KeyUnknown(NotAllowed):
    """There is no API key in the request, or nobody issued the one that is."""

    code = "E-AUTH-002"


class KeyEnded(NotAllowed):
    """The API key was revoked or has expired."""

    code = "E-AUTH-003"


class RoleLacks(NotAllowed):
    """The caller's role does not include what was asked for."""

    code = "E-AUTH-004"


class PathRefused(NotAllowed):
    """A recipe names a file or folder that jobs of this caller may not read."""

    code = "E-AUTH-005"


class Unreachable(CeruleaError):
    """A server or a database does not answer."""

    code = "E-NET-001"
    exit_code = 6


class Busy(Unreachable):
    """Not now: the same call may go through later.

    Args:
        retry_after_s: seconds after which it is worth trying again.
    """

    code = "E-BUSY-001"
    retry_after_s = 1.0

    def __init__(self, what: str, *, why: str = "", fix: str = "", retry_after_s: float = 1.0) -> None:
        super().__init__(what, why=why, fix=fix or f"Try again in {max(1, round(retry_after_s))} s.")
        self.retry_after_s = retry_after_s


class RateLimited(Busy):
    """A key has used up its requests or tokens of this minute."""

    code = "E-BUSY-002"


class QueueFull(Busy):
    """Too many requests or tokens wait already."""

    code = "E-BUSY-003"


class NotReady(Busy):
    """A model is being loaded, or the server is about to stop."""

    code = "E-BUSY-004"


class ModelLoading(NotReady):
    """A model is being loaded: whoever asks again finds it there."""

    code = "E-BUSY-005"


class Conflict(CeruleaError):
    """It clashes with what is already there."""

    code = "E-CONFLICT-001"
    exit_code = 5


class ResumeMismatch(Conflict):
    """A checkpoint was made with another recipe, corpus or tokenizer."""

    code = "E-RESUME-001"


class ResumeDiffers(ResumeMismatch):
    """The checkpoint that an attempt would go on from is not the one that the platform knows."""

    code = "E-RESUME-002"


class AgentUnfit(Conflict):
    """An agent was trained to see or to act otherwise than the game now has it."""

    code = "E-AGENT-001"


class KeyReused(Conflict):
    """An idempotency key came again with other contents; the first ones hold."""

    code = "E-KEY-001"


class HoldClosed(Conflict):
    """The hold was settled or voided before, or has expired."""

    code = "E-HOLD-001"


class EdgeRefused(Conflict):
    """A job cannot go from the state it is in to the one asked for."""

    code = "E-JOB-001"


class LeaseStale(Conflict):
    """Another attempt owns the job now; what this one says is not taken."""

    code = "E-JOB-002"


class SeatTaken(Conflict):
    """Somebody else plays that place of a match."""

    code = "E-MATCH-002"


class ActionLate(Conflict):
    """An action came for a step that is over, or that has not come."""

    code = "E-MATCH-004"


class DatabaseNewer(Conflict):
    """The database was written by a newer version of Cerulea."""

    code = "E-STORE-001"
