"""Checkpoints: whole or absent, verified, never a pickle."""

from __future__ import annotations

import errno
import random
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from cerulea.core.errors import CheckpointNotWritten, CheckpointUnusable
from cerulea.core.values import ModelCard
from cerulea.nn.decoder import Decoder
from cerulea.nn.shape import preset_shape
from cerulea.nn.weights import load_decoder
from cerulea.text.tokenizer import bytes_tokenizer
from cerulea.train import checkpoint as module
from cerulea.train.checkpoint import (
    MANIFEST,
    Snapshot,
    Writer,
    checkpoint_folders,
    load_resume,
    newest_checkpoint,
    open_checkpoint,
    problem_of,
    remove_leftovers,
    retain,
    snapshot_tensors,
    write_checkpoint,
)


def snapshot(step: int, preset: str = "modern") -> Snapshot:
    torch.manual_seed(step)
    decoder = Decoder(preset_shape(preset, vocab=261, layers=1, width=16, heads=2, context=8))
    return Snapshot(
        shape=decoder.shape,
        weights=snapshot_tensors(dict(decoder.state_dict())),
        optimizer={"momentum.x": torch.randn(3, 4)},
        state={"step": step, "run": {"tokens": 5}},
        card=ModelCard(preset=preset, parameters=1, context=8, vocab=261),
        tokenizer=bytes_tokenizer(),
    )


@pytest.mark.parametrize("preset", ["gpt2", "compat", "modern"])
def test_what_is_written_is_read_back_bit_for_bit(preset: str, tmp_path: Path):
    shot = snapshot(7, preset)

    checkpoint = write_checkpoint(tmp_path, shot)

    assert checkpoint.folder.name == "step-00000007"
    assert open_checkpoint(checkpoint.folder).digest == checkpoint.digest
    for name, tensor in load_decoder(checkpoint.folder).state_dict().items():
        assert torch.equal(tensor, shot.weights[name]), name
    tensors, state = load_resume(checkpoint.folder)
    assert torch.equal(tensors["momentum.x"], shot.optimizer["momentum.x"])
    assert state == shot.state
    kinds = {p.suffix for p in checkpoint.folder.iterdir()}
    assert kinds == {".json", ".safetensors"}


def test_any_damage_to_the_newest_makes_the_loader_fall_back_and_say_so(tmp_path: Path):
    """Fifty random damages (a flipped byte, a cut, a lost file) of any file: 50 of 50 fall back."""
    write_checkpoint(tmp_path, snapshot(1))
    newest = write_checkpoint(tmp_path, snapshot(2)).folder
    shutil.copytree(newest, tmp_path / "whole")
    draw = random.Random(5)
    for case in range(50):
        shutil.rmtree(newest)
        shutil.copytree(tmp_path / "whole", newest)
        path = draw.choice(sorted(newest.iterdir()))
        content = bytearray(path.read_bytes())
        match draw.randrange(3):
            case 0:
                content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
                path.write_bytes(content)
            case 1:
                path.write_bytes(content[: draw.randrange(len(content))])
            case _:
                path.unlink()
        said: list[str] = []

        found = newest_checkpoint(tmp_path, said.append)

        assert found is not None, case
        if path.name != MANIFEST:
            assert found.step == 1, (case, path.name)
        if found.step == 1:
            assert len(said) == 1 and "step-00000002 is passed over" in said[0]
        else:
            # A manifest may be damaged without harm, in a blank for example: then all files still verify.
            assert problem_of(newest) == ""


def test_when_every_checkpoint_is_damaged_the_loader_refuses(tmp_path: Path):
    folder = write_checkpoint(tmp_path, snapshot(1)).folder
    (folder / "state.json").write_text("{}")

    with pytest.raises(CheckpointUnusable, match=r"state\.json has 2 bytes instead of"):
        newest_checkpoint(tmp_path, lambda sentence: None)


def test_no_checkpoint_at_all_is_no_error(tmp_path: Path):
    assert newest_checkpoint(tmp_path / "none", lambda sentence: None) is None


@pytest.mark.parametrize("file", ["model.safetensors", "optim.safetensors", "state.json", MANIFEST])
def test_a_full_disk_leaves_the_checkpoint_before_it_whole(file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    before = write_checkpoint(tmp_path, snapshot(1))
    write = module.write_file

    def full(path: Path, content: bytes) -> None:
        if path.name == file:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, content)

    monkeypatch.setattr(module, "write_file", full)
    monkeypatch.setattr(module, "write_tensors", lambda path, tensors: full(path, save(tensors)))
    writer = Writer(tmp_path)
    writer.start(snapshot(2))

    with pytest.raises(CheckpointNotWritten, match="No space left on device"):
        writer.fetch(wait=True)

    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]
    assert problem_of(before.folder) == ""


def test_what_a_crash_left_half_written_is_never_loaded(tmp_path: Path):
    write_checkpoint(tmp_path, snapshot(1))
    shutil.copytree(tmp_path / "step-00000001", tmp_path / "step-00000002.tmp")

    assert newest_checkpoint(tmp_path, print).step == 1
    remove_leftovers(tmp_path)
    assert not (tmp_path / "step-00000002.tmp").exists()


def test_the_newest_and_the_best_are_kept(tmp_path: Path):
    for step in range(1, 7):
        write_checkpoint(tmp_path, snapshot(step))

    retain(tmp_path, last=2, best=1, scores={1: 3.0, 2: 1.0, 3: 2.0})

    assert [p.name[-1] for p in checkpoint_folders(tmp_path)] == ["2", "5", "6"]


def test_a_damaged_folder_of_the_same_step_gives_way(tmp_path: Path):
    folder = write_checkpoint(tmp_path, snapshot(1)).folder
    (folder / "state.json").write_text("{}")

    write_checkpoint(tmp_path, snapshot(1))

    assert problem_of(folder) == ""
