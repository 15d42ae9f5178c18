"""How a request to a model begins: room in the context and in the queue, money for its first tokens, then the engine.

In:      an Ask, the loaded model, who asks.
Out:     a Completion that runs.
Kept:    a refusal is cheap and comes before anything is held; what was refused after that is given back whole.
Not here: how it goes on and ends (`flows.complete`).
"""

from __future__ import annotations

import dataclasses

from cerulea.core.errors import Invalid, PromptTooLong
from cerulea.core.values import Usage
from cerulea.flows.ask import Ask, Prompt
from cerulea.flows.bill import Order
from cerulea.flows.complete import LEASE, Completion, Writing
from cerulea.flows.serving import Admits, Gateway, Served
from cerulea.people import Caller
from cerulea.serve.request import Request
from cerulea.text.stream import Pieces, TextStream, text_of

MOST_SEQUENCES = 4096  # of one request
MOST_READ_ALONE = 8  # texts of one prompt that each read it


async def begin(gateway: Gateway, caller: Caller, served: Served, ask: Ask) -> Completion:
    """Let a request run.

    Raises:
        Invalid: no prompt, ids beyond the vocabulary, too many sequences.
        PromptTooLong: more tokens than the context holds, with the numbers.
        FundTooLow, CapReached, RateLimited: see `flows.bill.open_now`.
        QueueFull, NotReady, GrammarInvalid: see `Served.submit`; nothing is charged then.
    """
    most = [_room(served, ask, prompt) for prompt in ask.prompts for _ in range(ask.best_of)]
    alone = not ask.share_prefix or ask.sampling.prompt_logprobs >= 0
    if alone and ask.best_of > MOST_READ_ALONE:
        raise Invalid(
            f"{ask.best_of} texts of a prompt that is not shared are asked for.",
            why="Without share_prefix, and with echo and logprobs, each text reads the whole prompt again.",
            fix=f"Ask for at most {MOST_READ_ALONE} at once.",
        )
    if not 0 < len(most) <= MOST_SEQUENCES:
        raise Invalid(
            f"{len(most):,} texts are asked for.",
            why=f"A request has 1 to {MOST_SEQUENCES:,}, all prompts and choices together.",
        )
    prompt_tokens = sum(len(prompt.ids) for prompt in ask.prompts)
    if isinstance(served, Admits):
        served.admit(len(most), prompt_tokens * ask.best_of)
    longest = max(most)
    order = Order(
        request_id=ask.id,
        model=served.label,
        endpoint=ask.endpoint,
        prompt_tokens=prompt_tokens,
        choices=len(most),
        first_tokens=longest if ask.strict else min(LEASE, longest),
        most_tokens=longest,
        strict=ask.strict,
    )
    bill = await gateway.bill(caller, order)
    completion = Completion(gateway, caller, served, ask, bill)
    made: list[Writing] = []
    try:
        left = bill.leased
        for index, tokens in enumerate(most):
            leased = min(tokens, tokens if ask.strict else LEASE, left)
            left -= leased
            made.append(_submit(completion, index, tokens, leased))
    except BaseException:
        for one in made:
            one.flow.abort()
        # What a step may have read of them meanwhile was no use to anybody.
        await bill.settle(Usage(), cached_tokens=0, finish="refused")
        raise
    completion.start(made)
    return completion


def _submit(completion: Completion, index: int, most: int, leased: int) -> Writing:
    ask, served = completion.ask, completion.served
    prompt = ask.prompts[index // ask.best_of]
    before = ""  # what the text goes on from; offsets count from its beginning, shown or not
    if ask.echo or ask.sampling.logprobs >= 0:
        before = text_of(served.tokenizer, prompt.ids) if prompt.text is None else prompt.text
    request = Request(
        id=f"{ask.id}.{index}",
        team=completion.caller.team,
        prompt=prompt.ids,
        sampling=dataclasses.replace(ask.sampling, max_tokens=most, choice=index % ask.best_of),
        leased=leased + (leased >= most),  # all of them is no limit
        share_prefix=ask.share_prefix,
        embed=ask.embed,
    )
    return Writing(
        index=index,
        prompt=prompt,
        flow=served.submit(request),
        stream=TextStream(served.tokenizer, ask.stops, shown=ask.shown),
        most=most,
        cut=most < ask.sampling.max_tokens,
        leased=leased,
        spelt=Pieces(served.tokenizer, offset=len(before), begins=False),
        echo=before if ask.echo else None,
        shown=0 if ask.echo else len(before),
    )


def _room(served: Served, ask: Ask, prompt: Prompt) -> int:
    """Tokens that may be written after this prompt."""
    asked, length = ask.sampling.max_tokens, len(prompt.ids)
    assert length, "read_prompts gives at least one id"
    room = served.context - length
    if asked <= room:
        return asked
    if ask.fill and room > 0:
        return room
    wanted = f" and {asked:,} of completion" if asked and not ask.fill else ""
    raise PromptTooLong(
        f"This model's maximum context length is {served.context:,} tokens; "
        f"{length + (0 if ask.fill else asked):,} were asked for ({length:,} of prompt{wanted}).",
        fix="Shorten the prompt, or lower max_tokens.",
    )
