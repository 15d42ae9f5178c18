"""The compiled way through a policy against torch's operations, forwards and backwards."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cerulea.nn import policy_fast
from cerulea.nn.policy import Policy, PolicyShape, log_probabilities, masked, policy_shape_from
from cerulea.nn.policy_kernels import _tanh
from cerulea.train.ppo import fused_loss, ppo_loss


def shape(core: str = "lstm", **changes) -> PolicyShape:
    values = {
        "vector": 7,
        "unit_features": 5,
        "unit_classes": ((0, 3, True), (3, 4, False), (7, 1, True), (8, 2, False)),
        "critic": 4,
        "heads": (14, 3, 6),
        "pointers": ((2, 8), (17, 6)),
        "embed": 8,
        "vector_width": 12,
        "width": 24,
        "core": core,
        "memory": 16,
        "share": 6,
    }
    return PolicyShape(**{**values, **changes})


FLAT = {"unit_features": 0, "unit_classes": (), "critic": 0, "heads": (5,), "pointers": (), "share": 0}
SHAPES = [shape("lstm"), shape("mingru"), shape("none"), shape("lstm", **FLAT)]


class Case:
    """What 6 sides of 2 see in 5 steps, some of it twice over: slots that are empty look alike."""

    def __init__(self, s: PolicyShape) -> None:
        torch.manual_seed(1)
        self.policy = Policy(s)
        for weight in self.policy.parameters():
            weight.data += 0.2 * torch.randn_like(weight)
        t, sides, k = 5, 6, 2
        units = policy_fast.shape_units(s)
        self.units = torch.randn(t, sides, k, units, s.unit_features)
        self.units[:, :, :, units // 2 :] = 0.3
        self.vector, self.critic = torch.randn(t, sides, k, s.vector), torch.randn(t, sides, k, s.critic)
        self.state = torch.randn(sides, k, s.state)
        self.fresh = torch.rand(t, sides, k) < 0.2
        self.mask = torch.rand(t, sides, k, s.actions) < 0.4
        first = 0
        for head in s.heads:
            self.mask[..., first] = True
            first += head
        self.seen = (self.vector, self.units, self.critic, self.state, self.fresh)

    def fast(self):
        parts = policy_fast.parts_of(self.units, self.policy.shape)
        return policy_fast.unroll(self.policy, self.vector, parts, self.critic, self.state, self.fresh)


@pytest.mark.parametrize("s", SHAPES, ids=lambda s: f"{s.core}-{s.actions}")
def test_the_compiled_way_computes_what_the_plain_one_does(s):
    case = Case(s)

    logits, values, after = case.policy.unroll(*case.seen)
    decision, fast_after = case.fast()

    assert torch.allclose(policy_fast.logits_of(decision, s).view_as(logits), logits, atol=2e-6)
    assert torch.allclose(decision.value.view_as(values), values, atol=2e-6)
    assert torch.allclose(fast_after, after, atol=5e-6)


@pytest.mark.parametrize("s", SHAPES, ids=lambda s: f"{s.core}-{s.actions}")
def test_gradients_by_hand_are_those_of_a_slow_one_in_float64(s):
    """Masks, several heads, rows that do not count, memories that are emptied on the way."""
    case = Case(s)
    logits, _, _ = case.policy.unroll(*case.seen)
    parts = masked(logits.detach(), case.mask).split(list(s.heads), dim=-1)
    action = torch.stack([torch.distributions.Categorical(logits=part).sample() for part in parts], -1)
    each = log_probabilities(logits.detach(), case.mask, s.heads)
    log_p = sum(part.gather(-1, action[..., i : i + 1]).squeeze(-1) for i, part in enumerate(each))
    old = log_p + 0.3 * torch.randn_like(log_p)
    advantage, returns = torch.randn_like(old), torch.randn_like(old)
    counts = torch.rand_like(old) < 0.7
    knobs = {"clip": 0.2, "entropy_bonus": 0.02, "value_weight": 0.6}

    def flat(tensor):
        return tensor.flatten(0, 2).numpy()

    decision, _ = case.fast()
    rows = (flat(case.mask), flat(action.int()), flat(old), flat(advantage), flat(returns), flat(counts))
    ours = fused_loss(decision, policy_fast.Table.of(s), *rows, **knobs)
    ours.total.backward()
    found = {name: weight.grad.double() for name, weight in case.policy.named_parameters()}
    case.policy.zero_grad()
    slow = case.policy.double()
    seen = (each.double() if each.is_floating_point() else each for each in case.seen)
    logits, values, _ = slow.unroll(*seen)
    theirs = slow_loss(logits, values, case.mask, action, old, advantage, returns, counts, s.heads, **knobs)
    theirs.backward()

    assert abs(float(ours.total.detach()) - float(theirs.detach())) < 2e-6
    for name, weight in slow.named_parameters():
        assert (found[name] - weight.grad).abs().max() < 3e-6 * max(1.0, float(weight.grad.abs().max())), name


def slow_loss(
    logits, values, mask, action, old, advantage, returns, counts, heads, *, clip, entropy_bonus, value_weight
):
    """Row by row and head by head, from the definition."""
    rows = [each.flatten(0, 2) for each in (logits, mask, action, old, advantage, returns, counts)]
    total = torch.zeros((), dtype=torch.float64)
    for row, (logit, legal, chosen, before, adv, ret, counted) in enumerate(zip(*rows, strict=True)):
        if not counted:
            continue
        log_p, entropy, first = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64), 0
        for head, size in enumerate(heads):
            open_ = [n for n in range(first, first + size) if legal[n]]
            p = torch.softmax(torch.stack([logit[n] for n in open_]), 0)
            log_p = log_p + p[open_.index(first + int(chosen[head]))].log()
            entropy = entropy - (p * p.log()).sum()
            first += size
        ratio = (log_p - before).exp()
        gain = torch.min(ratio * adv, ratio.clamp(1 - clip, 1 + clip) * adv)
        error = values.flatten()[row] - ret
        total = total - gain + value_weight * 0.5 * error**2 - entropy_bonus * entropy
    return total / counts.sum()


def test_the_fused_loss_tells_what_the_plain_one_does():
    case = Case(shape())
    logits, values, _ = case.policy.unroll(*case.seen)
    action = torch.zeros(*case.mask.shape[:-1], 3, dtype=torch.int64)
    old = torch.full(case.mask.shape[:-1], -3.0)
    counts = torch.rand_like(old) < 0.7
    rest = (case.mask, action, old, old * 0.3, old * 0.1, counts.float())
    knobs = {"clip": 0.2, "entropy_bonus": 0.01, "value_weight": 1.0}

    plain = ppo_loss(logits, values, *rest, heads=case.policy.shape.heads, **knobs)
    decision, _ = case.fast()
    flat = [each.flatten(0, 2).numpy() for each in (case.mask, action.int(), old, old * 0.3, old * 0.1, counts)]
    fused = fused_loss(decision, policy_fast.Table.of(case.policy.shape), *flat, **knobs)

    for name in ("total", "policy", "value", "entropy", "divergence", "clipped"):
        ours, theirs = float(getattr(fused, name).detach()), float(getattr(plain, name).detach())
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-6), name


def test_what_is_drawn_is_legal_and_follows_the_probabilities():
    """20,000 draws of one row; a draw at either edge is legal too."""
    case, rows = Case(shape()), 20_000
    s = case.policy.shape
    many = [each[:1, :1, :1].expand(1, rows, 1, *each.shape[3:]) for each in case.seen[:3]]
    state, fresh = torch.zeros(rows, 1, s.state), torch.ones(rows, 1, dtype=torch.bool)
    mask = case.mask[:1, :1, :1].expand(1, rows, 1, s.actions)
    uniform = np.random.default_rng(1).random((rows, 3), np.float32)
    uniform[0], uniform[1] = 0.0, 1.0 - 2**-24

    with torch.inference_mode():
        seen = [*(each[0] for each in many), state, fresh]
        drawn = policy_fast.act(case.policy, policy_fast.Table.of(s), seen, mask[0, :, 0].contiguous().numpy(), uniform)
        logits, _, _ = case.policy.step(*(each[:1] for each in seen))

    action, log_p = drawn[0], drawn[1]
    each = log_probabilities(logits[0, 0], mask[0, 0, 0], s.heads)
    expected = sum(part[torch.from_numpy(action[:, i]).long()] for i, part in enumerate(each))
    assert np.abs(expected.numpy() - log_p).max() < 1e-5
    first = 0
    for i, part in enumerate(each):
        shares = np.bincount(action[:, i], minlength=len(part)) / rows
        assert np.abs(shares - part.exp().numpy()).max() < 0.02
        assert mask[0, 0, 0].numpy()[first + action[:, i]].all()
        first += len(part)


def test_units_that_are_taken_for_a_minibatch_are_the_chosen_ones():
    case = Case(shape())
    sides = np.array([4, 1, 5])

    parts = policy_fast.take_parts(case.units.numpy(), sides, 5, case.policy.shape)

    for part, whole in zip(parts, policy_fast.parts_of(case.units[:, sides], case.policy.shape), strict=True):
        assert torch.equal(part, whole)


def test_the_tangent_is_the_librarys_to_rounding():
    x = np.linspace(-12, 12, 4001, dtype=np.float32)
    assert max(abs(float(_tanh(v)) - float(np.tanh(np.float64(v)))) for v in x) < 4e-7


def test_a_shape_survives_json():
    import json

    assert policy_shape_from(json.loads(json.dumps(shape().as_json()))) == shape()
