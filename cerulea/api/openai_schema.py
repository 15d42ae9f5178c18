"""The wire format of requests to models: OpenAI's arguments, and ours beside them.

Kept:    arguments that nobody knows are refused by name; those that change nothing here (`user`, `store`, ...) are
         taken. Numbers have OpenAI's bounds. A missing and a null argument are the same.
Not here: answers (`openai_answers`), what depends on the model: ids, room in the context (`flows`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from cerulea.api.schema import WHOLE, In

MOST_PROMPTS = 2048
Tokens = Annotated[int, Field(ge=0, le=10_000_000), WHOLE]
Number = Annotated[float, Field(allow_inf_nan=False)]
ModelName = Annotated[
    str, Field(min_length=1, max_length=1000, examples=["brook@3"], description="As /v1/models lists.")
]
Id = Annotated[int, Field(ge=0, le=2**31)]
Ids = Annotated[list[Id], Field(max_length=1_000_000)]
Texts = Annotated[list[str], Field(min_length=1, max_length=MOST_PROMPTS)]
Several = Annotated[list[Ids], Field(min_length=1, max_length=MOST_PROMPTS)]
Inputs = str | Texts | Annotated[Ids, Field(min_length=1)] | Several
Stop = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
Bias = Annotated[dict[Annotated[str, StringConstraints(pattern=r"^[0-9]{1,9}$")], float], Field(max_length=4096)]


class StreamOptions(In):
    """How a stream is told."""

    include_usage: bool | None = Field(None, description="One more chunk, with the usage and without choices.")
    include_obfuscation: bool | None = Field(None, description="Taken, and without effect.")


class JsonSchema(In):
    """The form of an answer."""

    name: str = Field("answer", max_length=64)
    description: str | None = Field(None, max_length=10_000)
    schema_: dict[str, Any] | None = Field(None, alias="schema", description="JSON Schema.")
    strict: bool | None = None


class ResponseFormat(In):
    """What the text must be: `regex` and `lark` are ours."""

    type: Literal["text", "json_object", "json_schema", "regex", "lark"]
    json_schema: JsonSchema | None = None
    regex: str | None = Field(None, max_length=10_000)
    lark: str | None = Field(None, max_length=100_000)


class Sampling(In):
    """What completions and chat have in common."""

    model: ModelName
    temperature: Number | None = Field(None, ge=0, le=2, description="0 picks the likeliest; 1 unless said.")
    top_p: Number | None = Field(None, ge=0, le=1)
    n: Annotated[int, Field(ge=1, le=128), WHOLE] | None = Field(None, description="Texts of each prompt.")
    stop: Stop | Annotated[list[Stop], Field(max_length=64)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1), WHOLE] | None = Field(
        None, description="Equal requests with equal seeds get equal texts."
    )
    presence_penalty: Number | None = Field(None, ge=-2, le=2)
    frequency_penalty: Number | None = Field(None, ge=-2, le=2)
    logit_bias: Bias | None = Field(None, description="Token id to what is added to its logit, -100 to 100.")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    user: str | None = Field(None, max_length=1000, description="Taken, and without effect.")
    # ours, under the names that vLLM has for them
    top_k: Annotated[int, Field(ge=-1, le=1_000_000), WHOLE] | None = Field(None, description="0 and -1 mean all.")
    min_p: Number | None = Field(None, ge=0, le=1)
    repetition_penalty: Number | None = Field(None, gt=0, le=10)
    ignore_eos: bool | None = Field(None, description="Go on after the end of a text.")
    min_tokens: Tokens | None = Field(None, description="No end before so many.")
    stop_token_ids: Annotated[list[Id], Field(max_length=256)] | None = None
    deterministic: bool | None = Field(None, description="Every bit independent of who is served beside.")
    strict: bool | None = Field(None, description="Hold the money for the longest answer at once, or refuse.")
    fit_context: bool | None = Field(None, description="Write less than max_tokens where the context has less room.")
    share_prefix: bool | None = Field(None, description="False: neither read nor leave a cached prefix.")


class CompletionIn(Sampling):
    """Text to go on from."""

    prompt: str | Texts | Annotated[Ids, Field(min_length=1)] | Several | None = Field(
        None, description="Text, texts, ids or lists of ids; missing begins a new document.", examples=["The sea was"]
    )
    max_tokens: Tokens | None = Field(None, description="16 unless said; 0 reads the prompt alone.")
    best_of: Annotated[int, Field(ge=1, le=20), WHOLE] | None = Field(None, description="n of so many are given.")
    logprobs: Annotated[int, Field(ge=0, le=5), WHOLE] | None = None
    echo: bool | None = Field(None, description="Give the prompt back before the text.")
    add_special_tokens: bool | None = Field(None, description="Put the model's begin-of-text token before texts.")
    return_token_ids: bool | None = Field(None, description="Give the ids that were written, as `token_ids`.")
    suffix: str | None = Field(None, description="Refused: these models write forward only.")

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model": "brook@3", "prompt": "The sea was", "max_tokens": 32}]}
    )


class TextPart(In):
    """A part of a message."""

    type: Literal["text"]
    text: str


class FunctionCall(In):
    """What a model called."""

    name: str = Field(max_length=256)
    arguments: str


class ToolCall(In):
    """One call of a message before."""

    id: str = Field(max_length=256)
    type: Literal["function"] = "function"
    function: FunctionCall


class Message(In):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = Field(None, max_length=256)
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = Field(None, max_length=256)
    refusal: str | None = None


class Function(In):
    """A function that may be called."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,128}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(In):
    """Something a model may use."""

    type: Literal["function"]
    function: Function


class NamedFunction(In):
    """The name of one."""

    name: str = Field(max_length=256)


class NamedTool(In):
    """The one to use."""

    type: Literal["function"]
    function: NamedFunction


class ChatIn(Sampling):
    """A conversation to go on with."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=10_000)]
    max_completion_tokens: Tokens | None = Field(None, description="What the context has room for unless said.")
    max_tokens: Tokens | None = Field(None, description="The older name of max_completion_tokens.")
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20), WHOLE] | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    # taken, and without effect
    store: bool | None = None
    metadata: dict[str, str] | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"model": "brook@3", "messages": [{"role": "user", "content": "How was the sea?"}]}]
        }
    )


class EmbeddingIn(In):
    """Texts to be placed in the model's space."""

    model: ModelName
    input: Inputs = Field(examples=["The sea was calm."])
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1, le=1_000_000), WHOLE] | None = Field(
        None, description="Must be the model's own width: a shorter vector of these models means nothing."
    )
    user: str | None = Field(None, max_length=1000)


class TokenizeIn(In):
    """Text to be cut into tokens."""

    model: ModelName
    prompt: str = Field(examples=["The sea was"])
    add_special_tokens: bool | None = Field(None, description="Whether a token that begins a text comes first.")


class DetokenizeIn(In):
    """Tokens to be joined to text."""

    model: ModelName
    tokens: Ids = Field(examples=[[464, 5417, 373]])


class Out(BaseModel):
    """An answer's part."""

    model_config = ConfigDict(extra="allow")
