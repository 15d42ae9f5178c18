"""The engine beside a toy model that can be predicted: what is written, counted, cached, aborted and refused."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cerulea.core.errors import GrammarInvalid, Invalid, PromptTooLong, QueueFull
from cerulea.core.values import Usage
from cerulea.serve.engine import Engine
from cerulea.serve.request import Delta, Request, SamplingParams, delta_from_json, request_from_json
from cerulea.serve.scheduler import Costs
from cerulea.serve.sequence import Sequence
from tests.serve.toys import END, Likeliest, ToyRunner, continuation


def engine(rows: int = 4, context: int = 64, **values) -> Engine:
    return Engine(ToyRunner(rows, context), Likeliest(), **values)


def request(name: str = "a", prompt=(3, 4, 5), *, team: str = "sea", leased: int = 1000, **values) -> Request:
    rest = {key: values.pop(key) for key in ("share_prefix", "embed") if key in values}
    sampling = SamplingParams(**{"max_tokens": 8, "temperature": 0.0, **values})
    return Request(id=name, team=team, prompt=tuple(prompt), sampling=sampling, leased=leased, **rest)


def finish(engine: Engine, most: int = 2000) -> dict[str, list[Delta]]:
    """Step until nothing is to be done; the deltas of each request."""
    deltas: dict[str, list[Delta]] = {}
    for _ in range(most):
        if engine.idle:
            return deltas
        for delta in engine.step():
            deltas.setdefault(delta.id, []).append(delta)
    raise AssertionError("the engine does not come to an end")


def tokens(deltas: list[Delta]) -> list[int]:
    return [token for delta in deltas for token in delta.tokens]


def test_a_sequence_is_continued_to_its_last_token():
    one = engine()
    one.submit(request())

    deltas = finish(one)["a"]

    assert tokens(deltas) == continuation((3, 4, 5), 8)
    assert [d.finish for d in deltas] == [""] * 7 + ["length"]
    assert deltas[-1].usage == Usage(prompt_tokens=3, completion_tokens=8)
    assert one.rows.running == 0


def test_a_stop_id_ends_a_text_and_is_no_part_of_it():
    prompt = next(p for n in range(200) if END in continuation(p := (n % 50, 7, 9, n // 50), 40))
    one = engine()
    one.submit(request(prompt=prompt, max_tokens=50, stop_ids=(END,)))

    deltas = finish(one)["a"]

    assert tokens(deltas) == continuation(prompt, 50, stop=END)
    assert deltas[-1].finish == "stop"
    assert deltas[-1].usage.completion_tokens == len(tokens(deltas)) + 1


class Compiles(Likeliest):
    """Whose grammars take as long as the test wants."""

    def __init__(self) -> None:
        self.go, self.error = threading.Event(), None

    def begin(self, sequence: Sequence) -> None:
        assert self.go.wait(60)
        if self.error is not None:
            raise self.error


def test_others_go_on_while_a_grammar_is_compiled():
    picker = Compiles()
    one = Engine(ToyRunner(), picker)
    one.submit(request("hard", grammar="{}"))
    one.submit(request("plain", prompt=(7, 8)))

    while one._running or one.scheduler.waiting:
        deltas = one.step()
    assert [(d.id, d.finish) for d in deltas] == [("plain", "length")]
    assert not one.idle and one.step() == []

    picker.go.set()
    assert tokens(finish(one)["hard"]) == continuation((3, 4, 5), 8)


def test_a_grammar_that_nothing_can_meet_ends_its_request_alone():
    picker = Compiles()
    picker.error = GrammarInvalid("No text can meet the schema.")
    picker.go.set()
    one = Engine(ToyRunner(), picker)
    one.submit(request("hard", grammar="{}"))
    one.submit(request("plain", prompt=(7, 8)))

    deltas = finish(one)

    assert "No text can meet" in deltas["hard"][-1].detail and deltas["hard"][-1].usage == Usage()
    assert deltas["plain"][-1].finish == "length" and one._waiting_tokens == 0


def test_who_is_aborted_while_its_grammar_is_compiled_leaves_at_once():
    picker = Compiles()
    one = Engine(ToyRunner(), picker)
    one.submit(request("hard", grammar="{}"))
    one.abort("hard")

    (last,) = one.step()
    picker.go.set()

    assert (last.finish, last.usage) == ("abort", Usage()) and one.idle and one._waiting_tokens == 0


def test_the_context_ends_a_text():
    one = engine(context=10)
    one.submit(request(max_tokens=50))

    last = finish(one)["a"][-1]

    assert (last.finish, last.detail, last.usage.completion_tokens) == ("length", "context", 7)


def test_nothing_is_written_that_is_not_leased():
    one = engine()
    one.submit(request(leased=3, max_tokens=8))
    first = finish(one)["a"]
    assert len(tokens(first)) == 3
    assert first[-1].finish == ""

    one.lease("a", 5)
    second = finish(one)["a"]
    one.abort("a")
    (last,) = one.step()

    assert tokens(first + second) == continuation((3, 4, 5), 5)
    assert (last.finish, last.usage) == ("abort", Usage(prompt_tokens=3, completion_tokens=5))


@pytest.mark.parametrize("stalled", [True, False])
def test_the_same_lease_again_is_the_last_one(stalled: bool):
    """Said while tokens are left, or when the sequence stands still already."""
    one = engine()
    one.submit(request(leased=3, max_tokens=8))
    deltas = [delta for _ in range(3 if stalled else 1) for delta in one.step()]

    one.lease("a", 3)
    deltas += finish(one)["a"]

    assert tokens(deltas) == continuation((3, 4, 5), 3)
    assert (deltas[-1].finish, deltas[-1].detail) == ("length", "lease")
    assert one.rows.running == 0


def test_what_waits_without_a_lease_ends_when_there_will_be_none():
    one = engine(rows=1)
    one.submit(request("a", max_tokens=30))
    one.submit(request("b", leased=0))
    one.step()

    one.lease("b", 0)

    (last,) = [delta for delta in one.step() if delta.id == "b"]
    assert (last.finish, last.detail, last.usage) == ("length", "lease", Usage())
    assert one.scheduler.waiting == 0
    assert len(tokens(finish(one)["a"])) == 28


def test_without_a_lease_a_prompt_is_read_and_nothing_is_written():
    one = engine()
    one.submit(request("a", leased=0))
    assert finish(one) == {}

    one.lease("a", 2)

    assert tokens(finish(one)["a"]) == continuation((3, 4, 5), 2)


def test_choices_of_one_team_do_not_hold_up_another():
    """While a long prompt is read, its other choice waits for it; another team starts at once."""
    prompt = tuple(range(1, 41))
    one = engine(rows=8)
    one.scheduler.costs.writing_ms = {1: 1.0}
    one.submit(request("busy", max_tokens=50))
    one.step()
    one.step()  # it does not begin with the others
    for choice in range(2):
        one.submit(request(f"a{choice}", prompt, choice=choice))
    one.submit(request("b", (7, 8), team="sky"))

    one.step()

    assert (one.stats.running, one.stats.waiting) == (3, 1)
    assert tokens(finish(one)["b"]) == continuation((7, 8), 8)


def test_the_first_token_of_a_newcomer_comes_before_the_next_ones_of_a_flood():
    one = engine(rows=8, most_running=4)
    for number in range(6):
        one.submit(request(f"sea{number}", (number, 4, 5), max_tokens=12))
    while one.stats.written_tokens < 8:
        one.step()
    one.scheduler.costs = Costs(writing_ms={4: 40.0}, reading_ms=0.5)
    new = tuple(range(20))
    one.submit(request("sky", new, team="sky"))

    first, second = one.step(), one.step()

    assert [delta.id for delta in first] == ["sky"]
    assert [delta.id for delta in second] == ["sea0", "sea1", "sea2", "sea3", "sky"]
    written = finish(one)
    assert tokens([*first, second[-1], *written["sky"]]) == continuation(new, 8)
    for number in (4, 5):
        assert tokens(written[f"sea{number}"]) == continuation((number, 4, 5), 12)


def test_steps_that_fail_one_after_the_other_are_counted():
    one = engine()
    for number in range(3):
        one.submit(request(f"r{number}"))
        one.runner.broken = RuntimeError("no memory")
        one.step()
    assert one.failures == 3

    one.runner.broken = None
    one.submit(request("good"))
    finish(one)

    assert one.failures == 0


def test_an_aborted_sequence_has_left_its_row_before_the_next_step():
    one = engine(rows=1)
    one.submit(request("a", max_tokens=50))
    one.submit(request("b", (9, 9)))
    one.step()

    one.abort("a")

    assert one.rows.running == 0
    deltas = one.step()
    assert [d.finish for d in deltas if d.id == "a"] == ["abort"]
    assert tokens([d for d in deltas if d.id == "b"]) == continuation((9, 9), 1)
    one.abort("a")  # it has ended: nothing happens
    assert one.stats.running == 1


def test_a_request_that_waits_is_aborted_and_owes_nothing():
    one = engine(rows=1)
    one.submit(request("a", max_tokens=20))
    one.submit(request("b"))
    one.step()

    one.abort("b")

    (last,) = [d for d in one.step() if d.id == "b"]
    assert (last.finish, last.usage) == ("abort", Usage())
    assert one.scheduler.waiting == 0


def test_a_failing_step_ends_its_sequences_and_the_engine_goes_on():
    one = engine()
    one.submit(request("a", max_tokens=50))
    one.step()
    one.runner.broken = RuntimeError("no memory")
    (failed,) = one.step()
    one.runner.broken = None
    one.submit(request("b"))

    assert (failed.finish, "no memory" in failed.detail) == ("error", True)
    assert tokens(finish(one)["b"]) == continuation((3, 4, 5), 8)


def test_a_prompt_that_began_before_is_copied_and_not_read_again():
    prompt = tuple(range(1, 31))
    one = engine()
    one.submit(request("a", prompt))
    finish(one)
    read = one.runner.read
    one.submit(request("b", (*prompt, 40)))

    deltas = finish(one)["b"]

    assert tokens(deltas) == continuation((*prompt, 40), 8)
    assert deltas[-1].cached_tokens == 30
    assert deltas[-1].usage.prompt_tokens == 31
    assert one.runner.read - read == 1 + 7
    assert (one.stats.prefix_hits, one.stats.prefix_queries) == (30, 61)


@pytest.mark.parametrize("values", [{"team": "sky"}, {"share_prefix": False}, {"deterministic": True}])
def test_a_prefix_is_not_shared_beyond_its_team_and_kind(values: dict):
    prompt = tuple(range(1, 31))
    one = engine()
    one.submit(request("a", prompt))
    finish(one)
    one.submit(request("b", prompt, **values))

    assert finish(one)["b"][-1].cached_tokens == 0


def test_choices_of_one_question_read_its_prompt_once():
    prompt = tuple(range(1, 31))
    one = engine(rows=8)
    for choice in range(4):
        one.submit(request(f"a{choice}", prompt, choice=choice))

    deltas = finish(one)

    assert [deltas[f"a{choice}"][-1].cached_tokens for choice in range(4)] == [0, 29, 29, 29]
    assert all(tokens(deltas[f"a{choice}"]) == continuation(prompt, 8) for choice in range(4))


def test_log_probabilities_of_a_prompt_cover_all_but_its_first_token():
    prompt = tuple(range(1, 41))
    one = engine()
    one.scheduler.costs.writing_ms = {1: 1.0}
    one.submit(request("busy", max_tokens=60))
    one.step()
    one.submit(request("a", prompt, prompt_logprobs=1, max_tokens=0))  # read in several chunks

    last = finish(one)["a"][-1]

    assert [lp.token for lp in last.prompt_logprobs] == list(prompt[1:])
    assert last.finish == "length"
    assert last.usage == Usage(prompt_tokens=40)


def test_an_embedding_is_the_mean_of_the_hidden_states():
    one = engine()
    one.submit(request("a", (2, 4, 9), embed=True, leased=0, max_tokens=0))

    (last,) = finish(one)["a"]

    assert last.embedding == (5.0, 1.0)
    assert last.usage == Usage(prompt_tokens=3)
    assert one.rows.running == 0


def test_refused_before_anything_is_computed():
    one = engine(rows=1, context=16, most_waiting=1)
    with pytest.raises(PromptTooLong, match="16 tokens"):
        one.submit(request(prompt=[1] * 16))
    with pytest.raises(Invalid, match="outside"):
        one.submit(request(prompt=[1, 50]))
    one.submit(request("a"))
    one.submit(request("b"))
    with pytest.raises(QueueFull) as full:
        one.submit(request("c"))
    assert full.value.retry_after_s >= 1

    assert sorted(finish(one)) == ["a", "b"]
    one.submit(request("d", [1] * 16, max_tokens=0))  # nothing is to be written: the prompt may fill the context
    assert sorted(finish(one)) == ["d"]


def test_tokens_that_wait_are_bounded_too():
    one = engine(rows=1, most_waiting_tokens=10)
    one.submit(request("a", [1] * 8))
    with pytest.raises(QueueFull, match="8 prompt tokens"):
        one.submit(request("b", [1] * 8))
    finish(one)

    one.submit(request("b", [1] * 12))  # alone it may be longer than the bound
    assert len(finish(one)["b"]) == 8


def test_what_waits_too_long_is_refused():
    now = [0.0]
    one = Engine(ToyRunner(1), Likeliest(), most_wait_s=5.0, clock=lambda: now[0])
    one.submit(request("a", max_tokens=40))
    one.step()
    one.submit(request("b"))
    one.submit(request("c"))
    now[0] = 4.0
    one.submit(request("d"))
    now[0] = 6.0

    refused = [delta for delta in one.step() if delta.finish == "error"]

    assert [delta.id for delta in refused] == ["b", "c"]
    assert "E-BUSY-003" in refused[0].detail and refused[0].usage == Usage()
    assert len(tokens(finish(one)["d"])) == 8


def test_values_cross_a_pipe_unchanged():
    asked = request("a", logit_bias=((3, 1.5),), stop_ids=(1, 2), logprobs=3)
    assert request_from_json(asked.as_json()) == asked
    one = engine()
    one.submit(request("a", logprobs=0, prompt_logprobs=0))
    for deltas in finish(one).values():
        assert [delta_from_json(delta.as_json()) for delta in deltas] == deltas


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_what_is_written_depends_on_the_request_alone(data: st.DataObject):
    """Random requests, leases and aborts at random moments: exact texts, exact usage, no row lost."""
    one = engine(rows=data.draw(st.integers(1, 4)), context=48, most_running=3)
    prompts = st.lists(st.integers(1, 3), min_size=1, max_size=40)
    asked: dict[str, Request] = {}
    seen: dict[str, list[Delta]] = {}
    for number in range(data.draw(st.integers(1, 12))):
        for _ in range(data.draw(st.integers(0, 6))):
            for delta in one.step():
                seen.setdefault(delta.id, []).append(delta)
        name = f"r{number}"
        asked[name] = request(
            name,
            data.draw(prompts),
            team=data.draw(st.sampled_from(["sea", "sky"])),
            max_tokens=data.draw(st.integers(0, 10)),
            leased=data.draw(st.integers(1, 12)),
            stop_ids=(END,),
        )
        one.submit(asked[name])
        if data.draw(st.integers(0, 4)) == 0:
            one.abort(data.draw(st.sampled_from(sorted(asked))))
    for name in asked:
        one.lease(name, 100)
    for name, deltas in finish(one).items():
        seen.setdefault(name, []).extend(deltas)

    for name, wanted in asked.items():
        deltas, most = seen[name], wanted.sampling.max_tokens
        assert [bool(d.finish) for d in deltas] == [False] * (len(deltas) - 1) + [True]
        whole = continuation(wanted.prompt, min(most, 48 - len(wanted.prompt)), stop=END)
        last = deltas[-1]
        if last.finish == "abort":
            assert tokens(deltas) == whole[: len(tokens(deltas))]
        else:
            assert tokens(deltas) == whole
            assert last.usage.prompt_tokens == len(wanted.prompt)
        assert last.usage.completion_tokens == len(tokens(deltas)) + (last.finish == "stop")
    assert one.rows.running == 0
    assert one.stats.waiting == 0
