"""On a GPU: bf16, compiling and flash attention compute what float32 on the CPU does."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from cerulea.nn.decoder import Decoder
from cerulea.nn.precision import choose_execution, fitting_tokens, measure_machine, pick_device
from cerulea.nn.shape import DecoderShape, preset_shape

pytestmark = [
    pytest.mark.requires_gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU"),
]
PRESETS = ["gpt2", "compat", "modern"]


def shape(preset: str) -> DecoderShape:
    kv_heads = None if preset == "gpt2" else 2
    return preset_shape(preset, vocab=512, layers=3, width=256, heads=4, context=128, kv_heads=kv_heads)


def pair(preset: str) -> tuple[Decoder, Decoder]:
    """The same weights, none of them trivially zero, on the CPU and on the GPU, where matrices are true float32."""
    torch.manual_seed(0)
    here = Decoder(shape(preset)).train()
    with torch.no_grad():
        for weight in here.parameters():
            weight.add_(torch.randn_like(weight) * 0.02)
    return here, copy.deepcopy(here).cuda()


def tokens() -> torch.Tensor:
    return torch.randint(0, 512, (4, 128), generator=torch.Generator().manual_seed(1))


def apart(logits: torch.Tensor, reference: torch.Tensor) -> float:
    """Root of the mean square of the difference, as a share of the reference's spread."""
    return float((logits.float().cpu() - reference).square().mean().sqrt() / reference.std())


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-3), (torch.bfloat16, 3e-2)])
@torch.no_grad()
def test_logits_are_those_of_the_cpu(preset: str, dtype: torch.dtype, bound: float):
    here, there = pair(preset)
    there.compute_dtype = dtype

    assert apart(there(tokens().cuda()), here(tokens())) < bound


@pytest.mark.parametrize("preset", PRESETS)
@torch.no_grad()
def test_bf16_runs_in_flash_attention(preset: str):
    """Every other kernel is forbidden: what cannot take the fast path is an error."""
    here, there = pair(preset)
    there.compute_dtype = torch.bfloat16

    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        logits = there(tokens().cuda())

    assert apart(logits, here(tokens())) < 3e-2


# Compiling warns about what it does inside torch and its compiler; none of it is ours to mend.
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("preset", PRESETS)
def test_compiled_bf16_gives_the_loss_and_gradients_of_the_cpu(preset: str):
    here, there = pair(preset)
    there.compute_dtype = torch.bfloat16
    there.compile_blocks()
    ids, targets = tokens(), tokens().roll(-1, 1)

    losses = here.loss(ids, targets), there.loss(ids.cuda(), targets.cuda())
    for loss in losses:
        loss.backward()

    assert losses[1].item() == pytest.approx(losses[0].item(), rel=1e-2)
    for (name, mine), theirs in zip(here.named_parameters(), there.parameters(), strict=True):
        assert mine.grad is not None and theirs.grad is not None, name
        along = torch.cosine_similarity(mine.grad.flatten(), theirs.grad.float().cpu().flatten(), dim=0)
        assert along > 0.98 or mine.grad.norm() < 1e-3, name


@pytest.mark.filterwarnings("default")
def test_an_execution_is_chosen_by_measuring_the_gpu():
    device = pick_device("cuda")
    machine = measure_machine(device, threads=1)
    micro = fitting_tokens(shape("modern"), device, machine.memory_bytes, 16_384)

    how = choose_execution(
        machine,
        device,
        lambda: Decoder(shape("modern")).to(device).train(),
        128,
        micro,
        precision="auto",
        compile_="auto",
        expected_tokens=0.0,
        expected_s=60.0,
    )

    assert machine.gpus and machine.matmul_bf16_gflops > 0
    assert (how.device, how.precision in ("fp32", "bf16"), how.compile) == ("cuda", True, False)
    assert micro % 128 == 0
