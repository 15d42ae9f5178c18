"""Lay out a conversation as the text a model was trained to continue.

In:      messages in OpenAI's shape; the template that came with the model (Jinja), or a default.
Out:     one prompt, in which special tokens are spelled out (`Tokenizer.encode_prompt` reads them); those that somebody
         spelled in what he says are hidden from it (`Spelt`), for he says them and does not end his turn by them.
Kept:    a template is a stranger's program: it runs in a sandbox, changes nothing it is given, and is stopped when it
         writes, loops or calls too much; its errors are Invalid. What it writes is what transformers writes.
Not here: tool calls in what the model answers (`tools`), ids (`tokenizer`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cerulea.core.errors import Invalid

Message = Mapping[str, Any]

# The layout of models trained here with the tokens of `text.tokenizer.CHAT_TOKENS`.
DEFAULT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('A message is of system, user or assistant, not of ' ~ message.role ~ '.') }}"
    "{% endif %}"
    "<|{{ message.role }}|>{{ message.content }}<|end|>"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
PRIVATE = ((0xE000, 0xF900), (0xF0000, 0xFFFFE))  # characters that mean nothing by themselves
TRANSCRIPT_STOPS = ("\nUser:", "\nSystem:")


@dataclass(frozen=True)
class ChatTemplate:
    """A Jinja template for conversations.

    Attributes:
        source: the template, or the one named "default" of several.
        others: further ones by name; "tool_use" is taken where tools are given.
        tokens: bos_token, eos_token and the like, by name.
    """

    source: str
    others: Mapping[str, str] = field(default_factory=dict)
    tokens: Mapping[str, str] = field(default_factory=dict)

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        name: str = "",
        **more: Any,
    ) -> str:
        """The prompt.

        Args:
            messages: role and content, the content a string, parts of text, or None beside tool calls.
            name: of another template that came with the model.
            more: further variables that this template knows, such as enable_thinking.

        Raises:
            Invalid: the messages are malformed, the template refuses them, fails, or takes too much.
        """
        source = self.source
        if name or (tools and "tool_use" in self.others):
            source = self.others.get(name or "tool_use", "")
            if not source:
                raise Invalid(
                    f"There is no chat template {name!r}.",
                    fix=f"Use one of: {', '.join(['default', *self.others])}.",
                )
        values = {
            **self.tokens,
            **more,
            "messages": [_plain(message) for message in messages],
            "tools": list(tools) if tools else None,
            "documents": list(documents) if documents else None,
            "add_generation_prompt": add_generation_prompt,
        }
        try:
            from cerulea.text.sandbox import rendered
        except ImportError as error:
            raise Invalid(
                "Chat templates need Jinja, which is not installed.", fix="Install it: pip install 'cerulea[serve]'"
            ) from error
        return rendered(source, values)

    @property
    def writes_tools(self) -> bool:
        """Whether the template has a place for tools."""
        return any("tools" in source for source in (self.source, *self.others.values()))


class Spelt:
    """Special tokens that are spelled in messages, and are plain text there: hidden while a template lays them out.

    Args:
        specials: of the tokenizer.
        said: all that was said, as text; the mark is a character that does not stand in it.

    Raises:
        Invalid: every such character does.
    """

    def __init__(self, specials: Iterable[str], said: str) -> None:
        self._names = sorted((name for name in specials if name), key=len, reverse=True)
        free = (chr(code) for first, last in PRIVATE for code in range(first, last) if chr(code) not in said)
        self._mark = next(free, "")
        if not self._mark:
            raise Invalid("The messages have every character that Unicode keeps for private use.", fix="Send fewer.")
        self._spelt = re.compile("|".join(map(re.escape, self._names)))
        self._hidden = re.compile(f"{self._mark}([0-9]+){self._mark}")

    def hide(self, value: Any, *, but: tuple[str, ...] = ("role", "type")) -> Any:
        """The same message, tool or text, with a mark instead of each; `but` names keys whose values stay."""
        if isinstance(value, str):
            mark, number = self._mark, self._names.index
            return self._spelt.sub(lambda found: f"{mark}{number(found[0])}{mark}", value) if self._names else value
        if isinstance(value, Mapping):
            return {self.hide(key): one if key in but else self.hide(one) for key, one in value.items()}
        return [self.hide(one) for one in value] if isinstance(value, list | tuple) else value

    def show(self, text: str) -> str:
        """What was hidden, spelled again."""
        return self._hidden.sub(lambda found: self._names[int(found[1])], text)


def load_template(folder: Path) -> ChatTemplate | None:
    """The template of a model's folder: chat_template.jinja, or chat_template in tokenizer_config.json.

    Raises:
        Invalid: a file is there and cannot be read.
    """
    config_path, alone = folder / "tokenizer_config.json", folder / "chat_template.jinja"
    try:
        config = json.loads(config_path.read_text(encoding="utf-8")) if config_path.exists() else {}
        found = alone.read_text(encoding="utf-8") if alone.exists() else config.get("chat_template")
        named = {"default": found} if isinstance(found, str) else {one["name"]: one["template"] for one in found or ()}
        tokens = {
            key: value.get("content") if isinstance(value, dict) else value
            for key, value in config.items()
            if key.endswith("_token") and value
        }
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise Invalid(f"The chat template in {folder} cannot be read: {error}.", fix="Restore its files.") from error
    more = folder / "additional_chat_templates"
    if more.is_dir():
        named |= {path.stem: path.read_text(encoding="utf-8") for path in sorted(more.glob("*.jinja"))}
    if not named:
        return None
    first = "default" if "default" in named else next(iter(named))
    source = named.pop(first)
    return ChatTemplate(source, named, {key: value for key, value in tokens.items() if isinstance(value, str)})


def default_template() -> ChatTemplate:
    """For models that declare Cerulea's own chat tokens."""
    return ChatTemplate(DEFAULT_TEMPLATE)


def plain_transcript(messages: Sequence[Message]) -> str:
    """A conversation as a base model may have read it; TRANSCRIPT_STOPS end its turn."""
    lines = []
    for message in map(_plain, messages):
        lines.append(f"{str(message['role']).capitalize()}: {str(message.get('content') or '').strip()}\n")
    return "".join(lines) + "Assistant:"


def text_of_content(content: Any) -> str:
    """The text of a message: a string, or parts of type text, one a line.

    Raises:
        Invalid: a part is something else than text.
    """
    if isinstance(content, str):
        return content
    if not isinstance(content, list | tuple):
        raise Invalid(f"A message's content is {type(content).__name__}.", fix="Give a string or a list of text parts.")
    texts = []
    for part in content:
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        else:
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            raise Invalid(
                f"A message has a part of type {kind!r}.", why="Models here read text.", fix="Send text parts."
            )
    return "\n".join(texts)


def _plain(message: Message) -> dict[str, Any]:
    """The message with its content as text and the arguments of its tool calls as values, as templates expect."""
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise Invalid("A message has no role.", fix='Give {"role": "user", "content": "..."}.')
    plain = {key: value for key, value in message.items() if value is not None}  # OpenAI's clients send empty keys
    if message.get("content") is not None:
        plain["content"] = text_of_content(message["content"])
    elif not message.get("tool_calls"):
        raise Invalid(f"A message of {message['role']} has no content.", fix="Give a string or a list of text parts.")
    if message.get("tool_calls"):
        plain["tool_calls"] = [_with_values(call) for call in message["tool_calls"]]
    return plain


def _with_values(call: Mapping[str, Any]) -> dict[str, Any]:
    function = dict(call.get("function") or {})
    if isinstance(function.get("arguments"), str):
        try:
            function["arguments"] = json.loads(function["arguments"] or "{}")
        except ValueError as error:
            raise Invalid(
                f"The arguments of the tool call {function.get('name')!r} are not JSON: {error}.",
                fix="Send back the arguments that the model wrote.",
            ) from error
    return {**call, "function": function}
