"""`cerulea chat`: talk with a model in the terminal, the answer appearing as it is written.

In:      lines that a person types, or of standard input; a model on this machine or on a platform elsewhere.
Out:     what the model says; with --json one object an answer.
Kept:    Ctrl-C ends an answer, not the talk. A model that knows no conversations is shown a plain transcript instead,
         and the person is told so.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Option

from cerulea.cli.lines import put, tell_loading, waiting
from cerulea.cli.options import Home, Json, ModelName
from cerulea.cli.reach import Url, client_of
from cerulea.core.errors import CeruleaError, Invalid, NoChatTemplate, PromptTooLong

if TYPE_CHECKING:
    from cerulea.client import Client
    from cerulea.client.writing import Piece

HELP = """/new            begin anew          /system TEXT    what the model is told first
/undo           take the last question and answer back
/retry          ask the last question once more
/set NAME VALUE temperature, top_p, top_k, max_tokens or seed
/save FILE      write the conversation as JSON lines
/quit           leave; so does Ctrl-D. Ctrl-C ends an answer."""
LOADING = "is loaded if need be (about 20 s the first time)"
SETTINGS: dict[str, Callable[[str], Any]] = {
    "temperature": float,
    "top_p": float,
    "top_k": int,
    "max_tokens": int,
    "seed": int,
}


def chat(
    context: typer.Context,
    model: ModelName,
    system: Annotated[str, Option(help="What the model is told before the talk.")] = "",
    max_tokens: Annotated[int, Option(help="Most tokens of an answer.")] = 256,
    temperature: Annotated[float, Option(help="0 picks the likeliest token.")] = 0.8,
    url: Url = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Talk with a model in the terminal; /help lists what else can be typed."""
    with client_of(context, home, url) as client:
        client.write.on_loading = tell_loading
        talk = Talk(client, model, system, {"max_tokens": max_tokens, "temperature": temperature})
        typed = sys.stdin.isatty() and not as_json
        with waiting(f"{model} {LOADING}"):
            client.write.open(model)  # before anything is asked: nobody types for a model that is not there
        if typed:
            print(f"{model}: /help for what can be typed, Ctrl-D to leave", flush=True)
        for line in _lines(typed):
            if line.startswith("/"):
                if not _command(talk, line, as_json):
                    return
            else:
                _answer(talk, line, as_json)


@dataclass
class Talk:
    """A conversation with one model."""

    client: Client
    model: str
    system: str
    how: dict[str, Any]
    turns: list[dict[str, str]] = field(default_factory=list)
    plain: bool = False  # as a transcript

    def messages(self) -> list[dict[str, str]]:
        """All turns, what the model is told first in front."""
        return [*([{"role": "system", "content": self.system}] if self.system else []), *self.turns]

    def pieces(self) -> Iterator[Piece]:
        """The answer to the last turn, as it is written; the oldest turns go where the context is too short for all."""
        while True:
            try:
                yield from self._plainly() if self.plain else self._chatting()
                return
            except NoChatTemplate:
                self.plain = True
                print(f"({self.model} knows no conversations; it is shown a transcript)", file=sys.stderr, flush=True)
            except PromptTooLong:
                if len(self.turns) < 3:
                    raise
                del self.turns[:2]
                print("(the beginning of the talk does not fit any more)", file=sys.stderr, flush=True)

    def _chatting(self) -> Iterator[Piece]:
        return self.client.write.chat(self.model, self.messages(), fit_context=True, **self.how)

    def _plainly(self) -> Iterator[Piece]:
        from cerulea.text.chat import TRANSCRIPT_STOPS, plain_transcript

        how = {"stop": list(TRANSCRIPT_STOPS), "fit_context": True, **self.how}
        return self.client.write.complete(self.model, plain_transcript(self.messages()), **how)


def _lines(typed: bool) -> Iterator[str]:
    """What is typed, line by line, until the end."""
    while True:
        try:
            line = input("\n> " if typed else "").strip()
        except EOFError:
            return
        except KeyboardInterrupt:
            print("(Ctrl-D or /quit leaves)", flush=True)
            continue
        if line:
            yield line


def _answer(talk: Talk, question: str, as_json: bool) -> None:
    """Ask, show the answer while it comes, and remember both."""
    talk.turns.append({"role": "user", "content": question})
    text, finish, usage = "", "", None
    pieces = talk.pieces()
    try:
        with waiting(f"{talk.model} reads"):
            head = list(islice(pieces, 1))
        for piece in chain(head, pieces):
            text, finish, usage = text + piece.text, piece.finish or finish, piece.usage or usage
            if not as_json:
                print(piece.text, end="", flush=True)
    except KeyboardInterrupt:
        finish = "stopped"
    except CeruleaError as error:
        talk.turns.pop()
        if as_json or not sys.stdin.isatty():
            raise
        print(f"{error.code}: {error}", file=sys.stderr, flush=True)
        return
    finally:
        pieces.close()  # type: ignore[attr-defined]  # hangs up where the answer has not ended
    talk.turns.append({"role": "assistant", "content": text.strip()})
    if as_json:
        put({"role": "assistant", "content": text, "finish_reason": finish, "usage": usage})
    else:
        print(f" … ({finish})" if finish in ("length", "stopped") else "", flush=True)


def _command(talk: Talk, line: str, as_json: bool) -> bool:
    """Do what a line that begins with / says; False to leave."""
    name, _, rest = line[1:].partition(" ")
    rest = rest.strip()
    match name:
        case "quit" | "exit":
            return False
        case "help":
            print(HELP)
        case "new":
            talk.turns.clear()
        case "system":
            talk.system = rest
        case "undo":
            del talk.turns[-2:]
        case "retry" if len(talk.turns) >= 2:
            question = talk.turns[-2]["content"]
            del talk.turns[-2:]
            _answer(talk, question, as_json)
        case "set":
            _set(talk, rest)
        case "save" if rest:
            from cerulea.core.files import json_line

            path = Path(rest).expanduser()
            path.write_text("".join(json_line(turn) + "\n" for turn in talk.messages()), encoding="utf-8")
            print(f"wrote {path}")
        case _:
            print(f"/{name} is nothing that can be done now.\n{HELP}")
    return True


def _set(talk: Talk, words: str) -> None:
    name, _, value = words.partition(" ")
    if name not in SETTINGS:
        print("  ".join(f"{key} {talk.how.get(key, '-')}" for key in SETTINGS))
        return
    try:
        talk.how[name] = SETTINGS[name](value.strip())
    except ValueError:
        print(str(Invalid(f"{value!r} is no {name}.", fix=f"For example: /set {name} 1")))
