"""Stores of keys and values: what is written is read, copies are independent, releases give memory back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cerulea.serve.kv import KVStore, PagedKV, SlotKV
from cerulea.serve.plan import Chunk
from tests.serve.shapes import SHAPES

SHAPE = SHAPES["llama"]
ROWS, LENGTH, PAGE = 3, 40, 8


def stores() -> dict[str, KVStore]:
    return {
        "slots": SlotKV(SHAPE, ROWS, LENGTH, torch.float32),
        "pages": PagedKV(SHAPE, ROWS, LENGTH, torch.float32, page=PAGE),
    }


def put(store: KVStore, row: int, start: int, k: torch.Tensor, v: torch.Tensor) -> None:
    store.prepare([Chunk(row, start, [0] * k.shape[2])])
    for layer in range(SHAPE.layers):
        store.write(layer, row, start, k[layer], v[layer])


@pytest.mark.parametrize("name", ["slots", "pages"])
@given(st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_store_is_a_list_of_tokens_for_each_row(name: str, data: st.DataObject):
    """Random appends, copies, releases and rewinds; judge: Python lists of tensors."""
    store, judge = stores()[name], {row: torch.zeros(2, SHAPE.layers, 2, 0, 16) for row in range(ROWS)}
    torch.manual_seed(data.draw(st.integers(0, 9)))
    for _ in range(data.draw(st.integers(1, 12))):
        row = data.draw(st.integers(0, ROWS - 1))
        action = data.draw(st.sampled_from(["append", "append", "copy", "release", "rewind"]))
        held = judge[row].shape[3]
        if action == "append" and held < LENGTH:
            new = torch.randn(2, SHAPE.layers, 2, data.draw(st.integers(1, LENGTH - held)), 16)
            put(store, row, held, new[0], new[1])
            judge[row] = torch.cat((judge[row], new), dim=3)
        elif action == "copy":
            target, tokens = data.draw(st.integers(0, ROWS - 1)), data.draw(st.integers(0, held))
            store.copy(row, target, tokens)
            if target != row:
                judge[target] = judge[row][:, :, :, :tokens].clone()
        elif action == "release":
            store.release(row)
            judge[row] = judge[row][:, :, :, :0]
        elif action == "rewind" and held:
            judge[row] = judge[row][:, :, :, : data.draw(st.integers(0, held))]
        for r, kept in judge.items():
            for layer in range(SHAPE.layers):
                k, v = store.read(layer, r, kept.shape[3])
                assert torch.equal(k, kept[0, layer])
                assert torch.equal(v, kept[1, layer])


def test_pages_are_shared_until_one_writes_and_free_when_nobody_owns_them():
    kv = PagedKV(SHAPE, ROWS, LENGTH, torch.float32, page=PAGE)
    free = len(kv.free)
    new: Any = torch.randn(2, SHAPE.layers, 2, 20, 16)
    put(kv, 0, 0, new[0], new[1])

    kv.copy(0, 1, 18)
    assert kv.tables[1] == kv.tables[0]
    put(kv, 1, 18, new[0][:, :, :1], new[1][:, :, :1])
    assert kv.tables[1][:2] == kv.tables[0][:2]
    assert kv.tables[1][2] != kv.tables[0][2]

    kv.release(0)
    kv.release(1)
    assert len(kv.free) == free
    assert not any(kv.owners)


def resident(kv: SlotKV) -> int:
    """Bytes of the process in memory."""
    with open("/proc/self/statm") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * 4096


def test_slots_take_memory_when_they_fill_and_give_it_back_on_release():
    kv = SlotKV(SHAPES["qwen3"], 64, 50_000, torch.float32)
    empty = resident(kv)
    assert kv.nbytes() > 5e9

    kv.data[5].fill_(1.0)
    filled = resident(kv)
    kv.release(5)

    assert filled - empty > 0.9 * kv.nbytes() / 64
    assert resident(kv) - empty < 0.1 * kv.nbytes() / 64
    assert not kv.data[5, 0, 0, 0, 0].any()
