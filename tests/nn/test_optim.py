"""Muon and AdamW: what they do to matrices, and that their state survives."""

from __future__ import annotations

import pytest
import torch

from cerulea.nn.decoder import Decoder
from cerulea.nn.optim import Optimizer, OptimizerSettings, kind_of, orthogonalise
from cerulea.nn.shape import preset_shape


def settings(kind: str = "muon", **changes: float) -> OptimizerSettings:
    rates = {"learning_rate": 0.02, "embedding_rate": 0.03, "head_rate": 0.004, "vector_rate": 0.01, **changes}
    return OptimizerSettings(kind=kind, weight_decay=0.1, beta1=0.8, beta2=0.95, momentum=0.95, **rates)


def make(preset: str = "modern", seed: int = 0) -> Decoder:
    torch.manual_seed(seed)
    return Decoder(preset_shape(preset, vocab=64, layers=2, width=32, heads=2, context=16))


def take_steps(decoder: Decoder, optimizer: Optimizer, steps: int, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        token_BT = torch.randint(0, 64, (4, 16), generator=generator)
        decoder.zero_grad()
        (decoder.loss(token_BT, token_BT.roll(1, 1)) / 64).backward()
        optimizer.step(rate_scale=1.0, momentum=0.9, decay_scale=1.0)


@pytest.mark.parametrize("size", [(8, 8), (16, 64), (64, 256)])
def test_orthogonalised_matrices_have_singular_values_near_one(size: tuple[int, int]):
    values = torch.linalg.svdvals(orthogonalise(torch.randn(3, *size)))

    assert values.min() > 0.6 and values.max() < 1.3


def test_a_stack_is_orthogonalised_as_each_matrix_alone():
    g_NRC = torch.randn(4, 16, 48)

    together = orthogonalise(g_NRC)

    for i in range(4):
        torch.testing.assert_close(together[i], orthogonalise(g_NRC[i : i + 1])[0], atol=1e-5, rtol=1e-4)


def test_queries_keys_and_values_are_moved_as_three_matrices():
    """The update of each third of the fused matrix is orthogonal by itself."""
    decoder = make()
    optimizer = Optimizer(decoder, settings())
    with torch.no_grad():
        decoder.head.weight.normal_()
        for block in decoder.blocks:
            block.attention.out.weight.normal_()
            block.mlp.down.weight.normal_()
    before = decoder.blocks[0].attention.qkv.weight.detach().clone()
    token_BT = torch.randint(0, 64, (4, 16))
    decoder.loss(token_BT, token_BT.roll(1, 1)).backward()

    optimizer.step(rate_scale=1.0, momentum=0.9, decay_scale=0.0)

    for moved in (decoder.blocks[0].attention.qkv.weight.detach() - before).split(32):
        values = torch.linalg.svdvals(moved / 0.02)
        assert values.median() == pytest.approx(1.0, abs=0.35)


def test_decay_pulls_only_where_the_update_does_too():
    decoder = make()
    weight = decoder.blocks[0].mlp.up.weight
    optimizer, plain = Optimizer(decoder, settings()), Optimizer(make(), settings())
    plain_weight = next(p.weight for s in plain.muon.stacks.values() for p in s if p.name == "blocks.0.mlp.up.weight")
    gradient = torch.randn_like(weight)
    for target, o, decay in ((decoder, optimizer, 1.0), (None, plain, 0.0)):
        for stack in o.muon.stacks.values():
            for piece in stack:
                piece.weight.grad = torch.zeros_like(piece.weight)
        (weight if target is decoder else plain_weight).grad = gradient.clone()
        o.muon.step(0.02, 0.9, decay)

    start = make().blocks[0].mlp.up.weight.detach()
    update, decayed = plain_weight.detach() - start, weight.detach() - plain_weight.detach()
    same_way = update * start < 0  # the step itself makes the weight smaller
    torch.testing.assert_close(decayed[same_way], -0.02 * start[same_way], atol=1e-6, rtol=1e-3)
    assert decayed[~same_way].abs().max() < 1e-7


@pytest.mark.parametrize(("preset", "kind"), [("gpt2", "adamw"), ("modern", "muon"), ("compat", "muon")])
def test_a_state_put_back_goes_on_bit_for_bit(preset: str, kind: str):
    decoder = make(preset)
    optimizer = Optimizer(decoder, settings(kind))
    take_steps(decoder, optimizer, 3)
    weights = {k: v.clone() for k, v in decoder.state_dict().items()}
    state = {k: v.clone() for k, v in optimizer.tensors().items()}
    take_steps(decoder, optimizer, 2, seed=1)

    again = make(preset, seed=5)
    again.load_state_dict(weights)
    resumed = Optimizer(again, settings(kind))
    resumed.load(state)
    take_steps(again, resumed, 2, seed=1)

    for name, weight in decoder.named_parameters():
        assert torch.equal(weight, dict(again.named_parameters())[name]), name
    for name, value in optimizer.tensors().items():
        assert torch.equal(value, resumed.tensors()[name]), name


@pytest.mark.parametrize(
    ("name", "size", "kind"),
    [
        ("embedding.weight", (64, 32), "embedding"),
        ("head.weight", (64, 32), "head"),
        ("value_embeddings.1.weight", (64, 32), "value_embedding"),
        ("blocks.0.attention.qkv.weight", (96, 32), "matrix"),
        ("blocks.0.attention.value_gate.weight", (2, 32), "vector"),
        ("blocks.0.mlp.up.bias", (128,), "vector"),
        ("positions.weight", (16, 32), "vector"),
    ],
)
def test_each_parameter_gets_the_method_that_suits_it(name: str, size: tuple[int, ...], kind: str):
    assert kind_of(name, torch.nn.Parameter(torch.zeros(size)), "muon") == kind


def test_adamw_decays_what_has_two_dimensions():
    assert kind_of("embedding.weight", torch.nn.Parameter(torch.zeros(2, 2)), "adamw") == "decayed"
    assert kind_of("final_norm.weight", torch.nn.Parameter(torch.zeros(2)), "adamw") == "undecayed"
