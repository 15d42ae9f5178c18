"""vLLM behind our protocol, beside a STAND-IN for vLLM (`vllm_stand_in`): vLLM itself is not installed or tested."""

from __future__ import annotations

import json
import sys

import pytest

from cerulea.core.errors import EngineFailed, Invalid, PromptTooLong, QueueFull
from cerulea.core.restoring import restore
from cerulea.core.values import Usage
from cerulea.flows.fitting import fitted
from cerulea.serve.load import make_engine
from cerulea.serve.process import Options, Steps
from cerulea.serve.vllm_engine import VllmEngine
from tests.serve.test_engine import engine as our_engine
from tests.serve.test_engine import finish, request, tokens
from tests.serve.toys import END, VOCAB, continuation
from tests.serve.vllm_stand_in import EngineDeadError, LLMEngine, modules


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch):
    for name, module in modules().items():
        monkeypatch.setitem(sys.modules, name, module)


def engine(context: int = 64, **values) -> VllmEngine:
    return VllmEngine(LLMEngine(context), context=context, vocab=VOCAB, **values)


def both() -> list[Steps]:
    return [engine(), our_engine()]


def test_its_texts_and_its_usage_are_our_engines():
    told = []
    for one in both():
        for n in range(5):
            one.submit(request(f"r{n}", (n, 7, 9), max_tokens=6 + n, team=f"t{n % 2}"))
        told.append(finish(one))

    theirs, ours = told
    assert {name: tokens(deltas) for name, deltas in theirs.items()} == {name: tokens(d) for name, d in ours.items()}
    assert {name: deltas[-1].usage for name, deltas in theirs.items()} == {
        name: d[-1].usage for name, d in ours.items()
    }
    assert all(deltas[-1].finish == "length" and deltas[-1].cached_tokens == 2 for deltas in theirs.values())


def test_nothing_is_asked_for_that_is_not_leased_and_a_new_lease_goes_on():
    one = engine()
    one.submit(request(leased=3, max_tokens=8))
    first = finish(one)["a"]
    assert (len(tokens(first)), first[-1].finish, one.idle, one.vllm.open) == (3, "", True, {})

    one.lease("a", 5)
    second = finish(one)["a"]
    one.lease("a", 9)
    last = finish(one)["a"]

    assert tokens(first + second + last) == continuation((3, 4, 5), 8)
    assert (last[-1].finish, last[-1].detail, last[-1].usage) == (
        "length",
        "",
        Usage(prompt_tokens=3, completion_tokens=8),
    )
    assert [asked.params.max_tokens for _, asked in one.vllm.added] == [3, 2, 3]
    assert len({asked.params.seed for _, asked in one.vllm.added}) == 3
    assert one.stats.prompt_tokens + one.stats.prefix_hits == 3


def test_a_lease_that_grows_while_it_writes_does_not_let_it_stand():
    one = engine()
    one.submit(request(leased=3, max_tokens=8))
    one.step()

    one.lease("a", 9)

    assert tokens(finish(one)["a"]) == continuation((3, 4, 5), 8)[1:]


def test_who_is_leased_nothing_yet_waits_outside_of_vllm():
    one = engine()
    one.submit(request(leased=0))
    assert one.idle and not one.vllm.added

    one.lease("a", 0)

    (last,) = one.step()
    assert (last.finish, last.detail, last.usage) == ("length", "lease", Usage())


@pytest.mark.parametrize("stands", [True, False])
def test_the_same_lease_again_is_the_last_one(stands: bool):
    one = engine()
    one.submit(request(leased=3, max_tokens=8))
    deltas = [delta for _ in range(3 if stands else 1) for delta in one.step()]

    one.lease("a", 3)
    deltas += finish(one)["a"]

    assert tokens(deltas) == continuation((3, 4, 5), 3)
    assert (deltas[-1].finish, deltas[-1].detail) == ("length", "lease")


def test_an_aborted_sequence_is_aborted_in_vllm_and_pays_what_it_wrote():
    one = engine(most_running=1)
    for name in "abcd":  # of one team: a runs, those beyond wait
        one.submit(request(name, max_tokens=50))
    one.step()

    one.abort("a")
    one.abort("d")

    assert not one.vllm.open
    deltas = {delta.id: delta for delta in one.step() if delta.finish}
    assert (deltas["a"].finish, deltas["a"].usage) == ("abort", Usage(prompt_tokens=3, completion_tokens=1))
    assert (deltas["d"].finish, deltas["d"].usage) == ("abort", Usage())
    one.abort("a")  # it has ended: nothing happens
    assert (one.stats.running, one.stats.waiting) == (1, 1)


def test_a_failing_step_ends_what_was_in_it_and_the_rest_goes_on():
    one = engine()
    one.submit(request("a"))
    one.step()
    one.vllm.broken = RuntimeError("no memory")

    (last,) = one.step()

    assert (last.finish, last.usage) == ("error", Usage(prompt_tokens=3, completion_tokens=1))
    assert "RuntimeError: no memory" in last.detail and one.idle and not one.vllm.open
    one.vllm.broken = None
    one.submit(request("b"))
    assert tokens(finish(one)["b"]) == continuation((3, 4, 5), 8)


def test_when_vllm_is_dead_everybody_is_told_and_then_the_process_ends():
    one = engine()
    one.submit(request())
    one.vllm.broken = EngineDeadError("gone")
    assert [delta.finish for delta in one.step()] == ["error"]

    assert not one.idle
    with pytest.raises(EngineFailed, match="vLLM has ended"):
        one.step()


def test_what_vllm_refuses_is_told_as_a_refusal():
    one = engine()
    one.vllm.refuses = ValueError("this schema is too large")
    one.submit(request())

    (last,) = one.step()

    assert (last.finish, last.usage, one.idle) == ("error", Usage(), True)
    with pytest.raises(Invalid, match="this schema is too large"):
        raise restore(json.loads(last.detail))


def test_a_stop_id_ends_a_text_is_counted_and_is_no_part_of_it():
    prompt = next(p for n in range(200) if END in continuation(p := (n % 50, 7, 9, n // 50), 40))
    ends = []
    for one in both():
        one.submit(request(prompt=prompt, max_tokens=50, stop_ids=(END,), logprobs=0))
        deltas = finish(one)["a"]
        assert tokens(deltas) == continuation(prompt, 50, stop=END)
        assert sum(len(delta.logprobs) for delta in deltas) == len(tokens(deltas))
        ends.append((deltas[-1].finish, deltas[-1].usage))

    assert ends[0] == ends[1]
    assert ends[0][0] == "stop"


def test_the_context_ends_a_text():
    one = engine(context=10)
    one.submit(request(max_tokens=50, leased=5))
    finish(one)
    one.lease("a", 51)

    last = finish(one)["a"][-1]

    assert (last.finish, last.detail, last.usage.completion_tokens) == ("length", "context", 7)


def test_log_probabilities_are_the_tokens_own_and_the_likeliest():
    one = engine()
    one.submit(request(max_tokens=4, leased=2, logprobs=2, prompt_logprobs=1))
    deltas = finish(one)["a"]
    one.lease("a", 5)
    deltas += finish(one)["a"]

    told = [entry for delta in deltas for entry in delta.logprobs]
    assert [entry.token for entry in told] == continuation((3, 4, 5), 4)
    assert all(entry.top[0] == (entry.token, entry.logprob) and len(entry.top) == 2 for entry in told)
    prompt = [delta.prompt_logprobs for delta in deltas]
    assert [entry.token for entry in prompt[0]] == [4, 5] and not any(prompt[1:])
    assert all(len(entry.top) == 1 and entry.top[0][1] >= entry.logprob for entry in prompt[0])


def test_a_prompt_is_read_alone_and_the_token_that_vllm_insists_on_is_not_counted():
    one = engine()
    one.submit(request(max_tokens=0, leased=1, prompt_logprobs=0))

    (delta,) = finish(one)["a"]

    assert (delta.tokens, delta.finish, delta.usage) == ((), "length", Usage(prompt_tokens=3))
    assert [entry.token for entry in delta.prompt_logprobs] == [4, 5]


def test_prefixes_are_shared_inside_a_team_alone():
    one = engine()
    for name, team, share in (("a", "sea", True), ("b", "sea", True), ("c", "air", True), ("d", "sea", False)):
        one.submit(request(name, team=team, share_prefix=share))
    finish(one)

    a, b, c, d = (asked.prompt["cache_salt"] for _, asked in sorted(one.vllm.added))
    assert a == b
    assert len({a, c, d}) == 3


def test_teams_take_turns():
    one = engine(most_running=1)
    for n in range(4):
        one.submit(request(f"sea{n}", team="sea"))
    one.submit(request("air", team="air"))
    one.step()

    assert sorted(open_.split("/")[0] for open_ in one.vllm.open) == ["air", "sea0"]


@pytest.mark.parametrize(
    ("kind", "value", "field"),
    [("schema", {"type": "object"}, "json"), ("regex", "a+", "regex"), ("lark", "start: /a/", "grammar")],
)
def test_a_grammar_is_vllms_structured_output_and_needs_its_whole_lease(kind: str, value, field: str):
    one = engine()
    grammar = json.dumps({kind: value})
    with pytest.raises(Invalid, match="whole text leased at once"):
        one.submit(request(grammar=grammar, leased=3))

    one.submit(request(grammar=grammar))
    one.step()

    params = one.vllm.added[0][1].params
    assert getattr(params.structured_outputs, field) == value
    assert not params.ignore_eos


@pytest.mark.parametrize(
    ("values", "error", "why"),
    [
        ({"embed": True}, Invalid, "no embeddings"),
        ({"deterministic": True}, Invalid, "no answers with `deterministic`"),
        ({"presence_penalty": 1.0, "leased": 3}, Invalid, "whole text leased at once"),
        ({"prompt": (VOCAB,)}, Invalid, "an id outside 0 to 49"),
        ({"prompt": (1,) * 64}, PromptTooLong, "context is 64"),
    ],
)
def test_what_it_cannot_do_is_refused(values, error: type[Exception], why: str):
    with pytest.raises(error, match=why):
        engine().submit(request(**values))


def test_more_than_may_wait_is_refused():
    one = engine(most_running=1, most_waiting=1)
    one.submit(request("a"))
    one.submit(request("b"))
    with pytest.raises(QueueFull, match="2 requests wait"):
        one.submit(request("c"))

    one = engine(most_waiting_tokens=5)
    one.submit(request("a"))
    with pytest.raises(QueueFull, match="3 prompt tokens wait"):
        one.submit(request("b"))


def test_the_setting_chooses_it_and_leaves_memory_to_it(tmp_path):
    options = Options(folder=str(tmp_path), weights="bf16", most_running=4, extra={"engine": "vllm"})

    made, ready = make_engine(options)

    assert isinstance(made, VllmEngine)
    assert (ready["context"], ready["vocab"], ready["rows"]) == (64, VOCAB, 6)
    args = made.vllm.args
    assert (args.model, args.dtype, args.max_num_seqs) == (str(tmp_path), "bfloat16", 6)
    assert fitted(tmp_path, options, 1) == (options, 0)
    with pytest.raises(Invalid, match="no format 'int8'"):
        make_engine(Options(folder="", weights="int8", extra={"engine": "vllm"}))


def test_without_vllm_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(Invalid, match="pip install vllm"):
        make_engine(Options(folder="", extra={"engine": "vllm"}))
