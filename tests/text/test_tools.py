"""Tool calls in written text: the same for any split, and nothing lost where there is none."""

from __future__ import annotations

import json
import random

import pytest

from cerulea.text.tools import CallStream, ToolCall, parse_calls, style_of

from .test_chat import CHATML, LLAMA3, MISTRAL, QWEN

A = ToolCall("weather", '{"city": "Köln"}')
B = ToolCall("time", "{}")
A_TEXT = '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>'
B_TEXT = '<tool_call>{"name": "time", "arguments": {}}</tool_call>'
BROKEN = '<tool_call>{"name": "weather", </tool_call>'

CASES = [
    ("hermes", "Just text with < and <tool and a { brace }.\n", "Just text with < and <tool and a { brace }.\n", []),
    ("hermes", A_TEXT, "", [A]),
    ("hermes", f"Let me look.\n\n{A_TEXT}\n{B_TEXT}\n", "Let me look.", [A, B]),
    ("hermes", f"{A_TEXT}\n then more ", "then more ", [A]),
    ("hermes", f"One. {A_TEXT} Two. {B_TEXT}", "One.Two.", [A, B]),
    ("hermes", f"x  {BROKEN} y {B_TEXT}", f"x  {BROKEN} y", [B]),
    ("hermes", f"x  {A_TEXT[: -len('</tool_call>')]}", "x", [A]),
    ("hermes", f"x  {A_TEXT[:30]}", f"x  {A_TEXT[:30]}", []),
    ("hermes", '<tool_call>{"name": "time"}</tool_call>', "", [B]),
    ("hermes", '<tool_call>{"name": "time", "arguments": "{}"}</tool_call>', "", [B]),
    ("hermes", "<tool_call>[1]</tool_call>", "<tool_call>[1]</tool_call>", []),
    ("hermes", "a <tool_cal", "a <tool_cal", []),
    (
        "mistral",
        'Sure. [TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Köln"}}, {"name": "time", "arguments": {}}]',
        "Sure.",
        [A, B],
    ),
    ("mistral", 'So: [TOOL_CALLS]weather[ARGS]{"city": "Köln"}[TOOL_CALLS]time[ARGS]{}', "So:", [A, B]),
    ("mistral", "[TOOL_CALLS]time[ARGS]{", "[TOOL_CALLS]time[ARGS]{", []),
    ("mistral", "a [1] [TOOL", "a [1] [TOOL", []),
    ("mistral", "a [TOOL_CALLS] [{]", "a [TOOL_CALLS] [{]", []),
    ("mistral", 'a [TOOL_CALLS] [{"name": 3}]', 'a [TOOL_CALLS] [{"name": 3}]', []),
    ("llama3", '{"name": "weather", "parameters": {"city": "Köln"}}', "", [A]),
    (
        "llama3",
        ' <|python_tag|>{"name": "weather", "parameters": {"city": "Köln"}}; {"name": "time", "parameters": {}}',
        "",
        [A, B],
    ),
    ("llama3", 'Here: {"name": "time", "parameters": {}}', 'Here: {"name": "time", "parameters": {}}', []),
    ("llama3", '{"answer": 42}', '{"answer": 42}', []),
    ("llama3", '{"name": "time", "parameters": {}} trailing', '{"name": "time", "parameters": {}} trailing', []),
    ("llama3", "<|pyth", "<|pyth", []),
    ("llama3", "", "", []),
]


@pytest.mark.parametrize(("style", "text", "shown", "calls"), CASES)
def test_calls_are_found_whole_and_in_any_pieces(style, text, shown, calls):
    assert parse_calls(text, style) == (shown, calls)
    draw = random.Random(3)
    for _ in range(40):
        stream, at, texts, found = CallStream(style), 0, [], []
        while at < len(text):
            size = draw.choice([1, 1, 2, 3, 9, 40])
            part, more = stream.push(text[at : at + size])
            texts.append(part)
            found += more
            at += size
        part, more = stream.end()
        assert ("".join([*texts, part]), found + more) == (shown, calls)


def test_text_before_a_call_passes_at_once():
    """Only what may begin a call waits; a whole call comes as soon as it is closed."""
    stream = CallStream("hermes")

    assert stream.push("The answer")[0] == "The answer"
    assert stream.push(" is <b>")[0] == " is <b>"
    assert stream.push(" <tool")[0] == ""
    assert stream.push("box>")[0] == " <toolbox>"
    assert stream.push(A_TEXT[:-3]) == ("", [])
    assert stream.push(A_TEXT[-3:]) == ("", [A])
    assert stream.push("\n") == stream.end() == ("", [])


def test_ordinary_text_of_a_llama_streams():
    stream = CallStream("llama3")

    assert [stream.push(part)[0] for part in ("He", "llo {", "x}")] == ["He", "llo {", "x}"]


def test_random_pieces_of_calls_lose_nothing():
    """Any mixture of marks, braces and blanks: the same for every split, and each character is shown or in a call."""
    draw = random.Random(9)
    parts = [
        "<tool_call>",
        "</tool_call>",
        "{",
        "}",
        '{"name": "t", "arguments": {}}',
        " ",
        "\n",
        "a",
        "<",
        "[TOOL_CALLS]",
    ]
    for style in ("hermes", "mistral", "llama3"):
        for _ in range(1500):
            text = "".join(draw.choices(parts, k=draw.randrange(1, 9)))
            whole = parse_calls(text, style)
            stream, shown, calls = CallStream(style), "", []
            for letter in text:
                part, more = stream.push(letter)
                shown, calls = shown + part, calls + more
            part, more = stream.end()
            assert (shown + part, calls + more) == whole
            if not whole[1]:
                assert whole[0] == text
            assert all(isinstance(json.loads(call.arguments), dict) for call in whole[1])


def test_a_template_tells_its_style():
    assert [style_of(source) for source in (CHATML, LLAMA3, QWEN)] == [None, "llama3", "hermes"]
    assert style_of(MISTRAL + "[TOOL_CALLS]") == "mistral"
