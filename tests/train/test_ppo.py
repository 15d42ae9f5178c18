"""PPO against a slow one that is written from the papers, in float64, number by number."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cerulea.nn.policy import Policy, PolicyShape
from cerulea.train.ppo import advantages, ppo_loss
from cerulea.train.rollout import draw_actions


def slow_advantages(reward, value, acting, terminated, truncated, after, last, discount, trace):
    """One player after the other: first its decisions with what they were paid, then the sums of the paper."""
    steps, matches, players = reward.shape
    found = np.zeros_like(reward)
    for m in range(matches):
        for p in range(players):
            decisions = []  # step, paid, value of what follows, whether the match went on
            for t in range(steps):
                if acting[t, m, p]:
                    decisions.append([t, 0.0, None, True])
                if decisions and decisions[-1][3]:
                    decisions[-1][1] += reward[t, m, p]
                if (terminated[t, m, p] or truncated[t, m, p]) and decisions and decisions[-1][3]:
                    decisions[-1][2] = 0.0 if terminated[t, m, p] else after[t, m, p]
                    decisions[-1][3] = False
            for i, (t, paid, follows, on) in enumerate(decisions):
                if on:
                    follows = value[decisions[i + 1][0], m, p] if i + 1 < len(decisions) else last[m, p]
                decisions[i][2] = follows
                decisions[i].append(paid + discount * follows - value[t, m, p])
            for i in range(len(decisions)):
                total, weight = 0.0, 1.0
                for _, _, _, on, delta in decisions[i:]:
                    total += weight * delta
                    weight *= discount * trace
                    if not on:
                        break
                found[decisions[i][0], m, p] = total
    return found


@pytest.mark.parametrize("turns", [False, True])
def test_advantages_are_those_of_the_paper_with_ends_cuts_and_turns(turns):
    draw = np.random.default_rng(1)
    shape = (40, 5, 3)
    reward, value, after = (draw.normal(size=shape) for _ in range(3))
    last = draw.normal(size=shape[1:])
    acting = draw.random(shape) < (0.4 if turns else 2.0)
    over = draw.random(shape[:2]) < 0.1
    cut = draw.random(shape[:2]) < 0.5
    terminated = np.repeat((over & ~cut)[..., None], 3, 2)
    truncated = np.repeat((over & cut)[..., None], 3, 2)

    ours = advantages(reward, value, acting, terminated, truncated, after, last, discount=0.9, trace=0.8)

    theirs = slow_advantages(reward, value, acting, terminated, truncated, after, last, 0.9, 0.8)
    # What was paid before a player's first decision of the rollout belongs to one that is not in it.
    assert np.abs(ours - theirs).max() < 1e-12


def test_the_loss_and_its_gradients_are_those_of_a_slow_one():
    """Two heads, masks, rows that do not count; each row's loss is worked out by hand in float64."""
    torch.manual_seed(1)
    rows, heads = 50, (4, 3)
    logits = torch.randn(rows, 7, dtype=torch.float64)
    mask = torch.rand(rows, 7) < 0.7
    mask[:, 0] = mask[:, 4] = True
    values = torch.randn(rows, dtype=torch.float64)
    adv, ret = torch.randn(rows, dtype=torch.float64), torch.randn(rows, dtype=torch.float64)
    weight = (torch.rand(rows) < 0.8).double()
    actions, _ = draw_actions(logits, mask, heads, torch.rand(rows, 2))
    old = torch.randn(rows, dtype=torch.float64) * 0.3 - 2.0

    ours_in = logits.float().clone().requires_grad_(), values.float().clone().requires_grad_()
    ours = ppo_loss(
        *ours_in,
        mask,
        actions,
        old.float(),
        adv.float(),
        ret.float(),
        weight.float(),
        heads=heads,
        clip=0.2,
        entropy_bonus=0.03,
        value_weight=0.7,
    )
    ours.total.backward()

    theirs_in = logits.clone().requires_grad_(), values.clone().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for row in range(rows):
        log_p = torch.zeros((), dtype=torch.float64)
        entropy = torch.zeros((), dtype=torch.float64)
        for number, (first, size) in enumerate(((0, 4), (4, 3))):
            legal = [first + i for i in range(size) if mask[row, first + i]]
            weights = torch.stack([theirs_in[0][row, i].exp() for i in legal])
            p = weights / weights.sum()
            log_p = log_p + p[legal.index(first + int(actions[row, number]))].log()
            entropy = entropy - (p * p.log()).sum()
        ratio = (log_p - old[row]).exp()
        gain = torch.min(ratio * adv[row], ratio.clamp(0.8, 1.2) * adv[row])
        row_loss = -gain + 0.7 * 0.5 * (theirs_in[1][row] - ret[row]) ** 2 - 0.03 * entropy
        total = total + weight[row] * row_loss
    total = total / weight.sum()
    total.backward()

    assert abs(float(ours.total.detach()) - float(total.detach())) < 1e-5
    assert (ours_in[0].grad.double() - theirs_in[0].grad).abs().max() < 1e-6
    assert (ours_in[1].grad.double() - theirs_in[1].grad).abs().max() < 1e-6
    assert not ours_in[0].grad[weight == 0].any()


def test_what_is_not_legal_is_never_drawn_and_draws_follow_the_probabilities():
    torch.manual_seed(2)
    logits = torch.tensor([0.0, 5.0, 1.0, -1.0]).repeat(20_000, 1)
    mask = torch.tensor([True, False, True, True]).repeat(20_000, 1)
    actions, log_p = draw_actions(logits, mask, (4,), torch.rand(20_000, 1))

    shares = torch.bincount(actions[:, 0], minlength=4) / 20_000
    wanted = torch.softmax(torch.tensor([0.0, -math.inf, 1.0, -1.0]), 0)
    assert shares[1] == 0
    assert (shares - wanted).abs().max() < 0.015
    assert torch.allclose(log_p.exp(), wanted[actions[:, 0]], atol=1e-6)
    edge, _ = draw_actions(logits[:2], mask[:2], (4,), torch.tensor([[0.0], [1.0 - 2**-24]]))
    assert edge[:, 0].tolist() == [0, 3]


def units_shape(core: str) -> PolicyShape:
    return PolicyShape(
        vector=5,
        unit_features=4,
        unit_classes=((0, 2, True), (2, 3, False)),
        critic=3,
        heads=(9, 2),
        pointers=((2, 5),),
        embed=8,
        vector_width=8,
        width=16,
        core=core,
        memory=8,
        share=4,
    )


@pytest.mark.parametrize("core", ["lstm", "mingru", "none"])
def test_who_acts_and_who_learns_compute_the_same(core):
    """Step by step with memory, and all steps at once: equal logits, values and memory; matches that begin forget."""
    torch.manual_seed(3)
    policy = Policy(units_shape(core))
    steps, sides, players = 7, 3, 2
    vector, units = torch.randn(steps, sides, players, 5), torch.randn(steps, sides, players, 5, 4)
    critic = torch.randn(steps, sides, players, 3)
    fresh = (torch.rand(steps, sides, 1) < 0.3).expand(steps, sides, players)
    state = torch.randn(sides, players, policy.shape.state)

    logits, values, after = policy.unroll(vector, units, critic, state, fresh)
    walked = state
    for t in range(steps):
        one, value, walked = policy.step(vector[t], units[t], critic[t], walked, fresh[t])
        assert torch.allclose(one, logits[t], atol=1e-6)
        assert torch.allclose(value, values[t], atol=1e-6)
    assert torch.allclose(walked, after, atol=1e-6)

    begun = fresh.clone()
    begun[0] = True
    a, _, _ = policy.unroll(vector, units, critic, state, begun)
    b, _, _ = policy.unroll(vector, units, critic, torch.randn_like(state), begun)
    assert torch.equal(a, b)


def test_a_pointer_follows_its_unit_to_another_slot():
    """Two units of a set change places: the logits that point to them change places, and nothing else changes."""
    torch.manual_seed(4)
    policy = Policy(units_shape("none"))
    torch.nn.init.normal_(policy.query.weight)
    vector, critic = torch.randn(1, 1, 1, 5), torch.randn(1, 1, 1, 3)
    units = torch.randn(1, 1, 1, 5, 4)
    state, fresh = torch.zeros(1, 1, 0), torch.zeros(1, 1, 1, dtype=torch.bool)
    order = [0, 1, 4, 3, 2]

    first, _, _ = policy.unroll(vector, units, critic, state, fresh)
    second, _, _ = policy.unroll(vector, units[:, :, :, order], critic, state, fresh)

    assert torch.allclose(first[..., [0, 1, *(2 + i for i in order), 7, 8, 9, 10]], second, atol=1e-6)
