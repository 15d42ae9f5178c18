"""OpenAI's chat over our models: a conversation is written as its model's template writes it, and gone on with.

Kept:    the text of a stream, joined, is the plain answer's; what may still become a call of a tool is held back.
Not here: templates (`text.chat`), what a call looks like (`flows.calls`), what is shared with completions (`openai`).
"""

from __future__ import annotations

import dataclasses
import json
import secrets
from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter, Response

from cerulea.api import openai_answers as out
from cerulea.api.answering import Asked, Begun, Uses, answer_plainly, answer_streamed
from cerulea.api.openai import EVENTS, detail_of, head_of, open_model, sampling_of, stops_of, with_logprobs
from cerulea.api.openai_errors import About, about
from cerulea.api.openai_schema import ChatIn, Message, NamedTool
from cerulea.core.errors import Invalid, NoChatTemplate
from cerulea.flows.admit import begin
from cerulea.flows.ask import Ask, Piece, Prompt, Text, Told
from cerulea.flows.calls import Calls, NoCalls, call_grammar, check_tools, read_calls
from cerulea.flows.complete import Completion
from cerulea.flows.prompts import encode
from cerulea.flows.serving import Gateway, Served
from cerulea.people import Caller
from cerulea.text.chat import Spelt
from cerulea.text.tools import SHOWN, ToolCall

router = APIRouter(tags=["openai"])
# What ends a turn in the families that are known; a template may name others (`stop_tokens`).
TURN_ENDS = ("<|end|>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<end_of_turn>")


@router.post("/v1/chat/completions", response_model=out.ChatOut, responses=EVENTS)
async def create_chat_completion(body: ChatIn, caller: Uses, call: Asked) -> Response:
    """What the model says next."""
    call.refuse_stream(body)
    _check(body)
    if body.stream:
        completion = await _begin(body, caller, call.gateway)
        chunks = _Chunks(body, completion.served)
        head = head_of(completion, "chat.completion.chunk")
        return answer_streamed(body, completion, head, chunks.of, chunks.opening(body.n or 1))

    async def begun() -> Begun:
        completion = await _begin(body, caller, call.gateway)

        def tell(texts: list[Text]) -> dict[str, Any]:
            return {
                **head_of(completion, "chat.completion"),
                "choices": [_choice(body, completion.served, text) for text in texts],
                "usage": out.usage_of(completion),
            }

        return Begun(completion, tell)

    return await answer_plainly(call, caller, begun)


async def _begin(body: ChatIn, caller: Caller, gateway: Gateway) -> Completion:
    served = await open_model(gateway, caller, body.model)
    written, ends, spelt = _write(served, body)
    (ids,) = await encode(served, [written], spelt.show)
    most = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    sampling = await sampling_of(served, body, served.context if most is None else most, ends)
    if _is_forced(body):
        with about("tool_choice"):
            named = body.tool_choice.function.name if isinstance(body.tool_choice, NamedTool) else ""
            grammar = call_grammar(_plain(body.tools), named)
            await served.grammars.check(grammar)
        sampling = dataclasses.replace(sampling, grammar=grammar)
    with about("messages"):
        ask = Ask(
            id=f"chatcmpl-{secrets.token_hex(12)}",
            endpoint="chat/completions",
            prompts=(Prompt(ids=tuple(ids) or (served.tokenizer.begin_of_text,), text=spelt.show(written)),),
            sampling=with_logprobs(sampling, (body.top_logprobs or 0) if body.logprobs else -1, echo=False),
            fill=most is None or bool(body.fit_context),
            best_of=body.n or 1,
            stops=stops_of(body),
            shown=SHOWN if _offers(body) else (),
            strict=bool(body.strict),
            share_prefix=body.share_prefix is not False,
        )
        return await begin(gateway, caller, served, ask)


def _check(body: ChatIn) -> None:
    """What contradicts itself."""
    if body.top_logprobs is not None and not body.logprobs:
        raise About(Invalid("top_logprobs needs logprobs.", fix="Set logprobs to true."), "top_logprobs")
    if None not in (body.max_tokens, body.max_completion_tokens) and body.max_tokens != body.max_completion_tokens:
        raise About(
            Invalid("max_tokens and max_completion_tokens differ.", fix="Use max_completion_tokens alone."),
            "max_tokens",
        )
    if _is_forced(body) and not body.tools:
        raise About(Invalid("tool_choice needs tools.", fix="Give tools, or leave tool_choice out."), "tool_choice")
    if _is_forced(body) and body.response_format and body.response_format.type != "text":
        raise About(
            Invalid("A forced call has its own form.", fix="Leave response_format or tool_choice out."),
            "response_format",
        )


def _is_forced(body: ChatIn) -> bool:
    return body.tool_choice == "required" or isinstance(body.tool_choice, NamedTool)


def _offers(body: ChatIn) -> bool:
    """Whether the model may call something."""
    return bool(body.tools) and body.tool_choice != "none"


def _write(served: Served, body: ChatIn) -> tuple[str, tuple[int, ...], Spelt]:
    """The conversation as the model reads it, the ids that end a turn of it, and what is hidden in it."""
    template, specials = served.template, served.tokenizer.specials
    if template is None:
        raise About(
            NoChatTemplate(
                f"{served.label} has no chat template.",
                why="It was trained on texts and not on conversations.",
                fix="Use /v1/completions, or a model that has one.",
            ),
            "model",
        )
    if _offers(body):
        with about("tools"):
            check_tools(template, served.label, forced=_is_forced(body))
    with about("messages"):
        messages = [_turn(message) for message in body.messages]
        tools = _plain(body.tools) if _offers(body) else None
        spelt = Spelt(specials, json.dumps([messages, tools], ensure_ascii=False))
        text = template.render(
            [spelt.hide(one) for one in messages], tools=tools and spelt.hide(tools), add_generation_prompt=True
        )
    ends = (*getattr(template, "stop_tokens", ()), *TURN_ENDS)
    return text, tuple(specials[name] for name in ends if name in specials), spelt


def _turn(message: Message) -> dict[str, Any]:
    """A message as templates know it: without a role that only OpenAI has."""
    turn = message.model_dump(exclude_none=True)
    turn.pop("refusal", None)
    if message.role == "developer":
        turn["role"] = "system"
    return turn


def _plain(tools: Any) -> list[dict[str, Any]]:
    return [tool.model_dump(exclude_none=True) for tool in tools or ()]


# -- answers -----------------------------------------------------------------------------------------


def _choice(body: ChatIn, served: Served, text: Text) -> dict[str, Any]:
    reader = _reader(body, served)
    content, calls = reader.push(text.text)
    rest, more = reader.end()
    content, calls = content + rest, calls + more
    message: dict[str, Any] = {"role": "assistant", "content": content or (None if calls else ""), "refusal": None}
    if calls:
        message["tool_calls"] = [_called(call) for call in calls]
    return {
        "index": text.index,
        "message": message,
        "logprobs": _logprobs(body, served, text.told),
        "finish_reason": _finish(body, text.finish, len(calls)),
        **detail_of(text.detail),
    }


def _reader(body: ChatIn, served: Served) -> Calls:
    return read_calls(served.template, forced=_is_forced(body)) if _offers(body) else NoCalls()


class _Chunks:
    """What each piece is told as."""

    def __init__(self, body: ChatIn, served: Served) -> None:
        self.body, self.served = body, served
        self.readers: dict[int, Calls] = {}  # by choice
        self.called: dict[int, int] = {}  # how many calls of each were told

    def opening(self, n: int) -> Iterator[dict[str, Any]]:
        """Who speaks, before anything is said."""
        for index in range(n):
            yield self._chunk(index, {"role": "assistant", "content": "", "refusal": None})

    def of(self, piece: Piece) -> Iterator[dict[str, Any]]:
        """The text; with the last piece, why it ended."""
        reader = self.readers.get(piece.index)
        if reader is None:
            reader = self.readers[piece.index] = _reader(self.body, self.served)
        text, calls = reader.push(piece.text)
        if piece.finish:
            rest, more = reader.end()
            text, calls = text + rest, calls + more
        if text or piece.told:
            told = _logprobs(self.body, self.served, piece.told)
            yield self._chunk(piece.index, {"content": text} if text else {}, logprobs=told)
        first = self.called.get(piece.index, 0)
        for position, call in enumerate(calls, first):
            yield self._chunk(piece.index, {"tool_calls": [{"index": position, **_called(call)}]})
        self.called[piece.index] = first + len(calls)
        if piece.finish:
            finish = _finish(self.body, piece.finish, self.called[piece.index])
            yield {**self._chunk(piece.index, {}, finish=finish), **detail_of(piece.detail)}

    def _chunk(
        self, index: int, delta: dict[str, Any], *, finish: str | None = None, logprobs: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}


def _logprobs(body: ChatIn, served: Served, told: Any) -> dict[str, Any] | None:
    entries: list[Told] = list(told)
    if not body.logprobs:
        return None
    return out.chat_logprobs_of(entries, served.tokenizer, body.top_logprobs or 0)


def _finish(body: ChatIn, finish: str, calls: int) -> str:
    """Where the caller named the one tool to call, OpenAI says `stop`."""
    return "tool_calls" if calls and not isinstance(body.tool_choice, NamedTool) else finish


def _called(call: ToolCall) -> dict[str, Any]:
    return {
        "id": f"call_{secrets.token_hex(12)}",
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }
