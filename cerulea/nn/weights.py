"""Model folders: read a Hugging Face folder or our own into a Decoder, and write one.

In:      a folder with config.json and model.safetensors, whole or in shards; or a decoder's parameters.
Out:     a float32 Decoder; or the config and the tensors of such a folder.
Kept:    one table per family serves both directions, so that import → export → import is equal bit for bit;
         every tensor of a file is used exactly once or refused by name; no pickle is ever opened.
Not here: what a config means (`families`), atomic checkpoint folders (`train.checkpoint`), tokenizers (`text`).
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from cerulea.core.errors import NotFound, PickleRefused, WeightsInvalid
from cerulea.nn.attention import rope_tables
from cerulea.nn.decoder import Decoder
from cerulea.nn.families import OWN, family_config, family_of
from cerulea.nn.families import is_hugging_face as is_hugging_face
from cerulea.nn.families import read_shape as read_shape
from cerulea.nn.shape import DecoderShape

METADATA = {"format": "pt"}  # transformers 4 refuses a safetensors file without it

_HEAD = "lm_head.weight"
# Buffers that older transformers stored beside the parameters: causal masks and rotary frequencies.
_BUFFER = re.compile(r"(.*\.)?(attn\.(bias|masked_bias)|rotary_emb\.inv_freq)")
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_NO_WEIGHTS = ("training_args", "optimizer", "scheduler", "rng_state", "scaler")  # pickles that a trainer leaves
_NAMED = 4  # names that an error shows


@dataclass(frozen=True, slots=True)
class Entry:
    """How one of our parameters lies in a family's file; `{i}` stands for the layer."""

    operation: Literal["copy", "transpose", "join"]  # transpose: GPT-2's Conv1D is (in, out); join: along dim 0
    ours: str
    theirs: tuple[str, ...]  # several for join, in the order of our rows

    def sizes(self, shape: DecoderShape, size: tuple[int, ...]) -> list[tuple[int, ...]]:
        """Sizes of their tensors, where ours has `size`."""
        if self.operation == "transpose":
            return [size[::-1]]
        if self.operation == "copy":
            return [size]
        kv = shape.kv_heads * shape.head_size
        rows = (shape.heads * shape.head_size, kv, kv) if len(self.theirs) == 3 else (shape.hidden, shape.hidden)
        return [(part, *size[1:]) for part in rows]

    def read(self, parts: list[Tensor]) -> Tensor:
        """Our tensor from theirs: float32, in memory of its own, as the file may be a mapping that goes away."""
        joined = torch.cat([part.to(torch.float32) for part in parts]) if len(parts) > 1 else parts[0]
        turned = joined.t() if self.operation == "transpose" else joined
        return turned.to(torch.float32, copy=len(parts) == 1, memory_format=torch.contiguous_format)

    def write(self, tensor: Tensor, shape: DecoderShape) -> list[Tensor]:
        """Their tensors from ours."""
        if self.operation == "transpose":
            return [tensor.t()]
        return list(torch.split_with_sizes(tensor, [size[0] for size in self.sizes(shape, tuple(tensor.shape))]))


def _table(*entries: Entry) -> dict[str, Entry]:
    return {entry.ours: entry for entry in entries}


_GPT2 = _table(
    Entry("copy", "embedding.weight", ("transformer.wte.weight",)),
    Entry("copy", "positions.weight", ("transformer.wpe.weight",)),
    Entry("copy", "blocks.{i}.attention_norm.weight", ("transformer.h.{i}.ln_1.weight",)),
    Entry("copy", "blocks.{i}.attention_norm.bias", ("transformer.h.{i}.ln_1.bias",)),
    Entry("transpose", "blocks.{i}.attention.qkv.weight", ("transformer.h.{i}.attn.c_attn.weight",)),
    Entry("copy", "blocks.{i}.attention.qkv.bias", ("transformer.h.{i}.attn.c_attn.bias",)),
    Entry("transpose", "blocks.{i}.attention.out.weight", ("transformer.h.{i}.attn.c_proj.weight",)),
    Entry("copy", "blocks.{i}.attention.out.bias", ("transformer.h.{i}.attn.c_proj.bias",)),
    Entry("copy", "blocks.{i}.mlp_norm.weight", ("transformer.h.{i}.ln_2.weight",)),
    Entry("copy", "blocks.{i}.mlp_norm.bias", ("transformer.h.{i}.ln_2.bias",)),
    Entry("transpose", "blocks.{i}.mlp.up.weight", ("transformer.h.{i}.mlp.c_fc.weight",)),
    Entry("copy", "blocks.{i}.mlp.up.bias", ("transformer.h.{i}.mlp.c_fc.bias",)),
    Entry("transpose", "blocks.{i}.mlp.down.weight", ("transformer.h.{i}.mlp.c_proj.weight",)),
    Entry("copy", "blocks.{i}.mlp.down.bias", ("transformer.h.{i}.mlp.c_proj.bias",)),
    Entry("copy", "final_norm.weight", ("transformer.ln_f.weight",)),
    Entry("copy", "final_norm.bias", ("transformer.ln_f.bias",)),
    Entry("copy", "head.weight", (_HEAD,)),
)


def _joined(kind: Literal["weight", "bias"]) -> tuple[Entry, Entry]:
    attention, mlp = "model.layers.{i}.self_attn.", "model.layers.{i}.mlp."
    return (
        Entry("join", f"blocks.{{i}}.attention.qkv.{kind}", tuple(f"{attention}{x}_proj.{kind}" for x in "qkv")),
        Entry("join", f"blocks.{{i}}.mlp.up.{kind}", (f"{mlp}gate_proj.{kind}", f"{mlp}up_proj.{kind}")),
    )


# Mistral and Qwen name their tensors as Llama does; the shape decides which of these there are.
_LLAMA = _table(
    Entry("copy", "embedding.weight", ("model.embed_tokens.weight",)),
    Entry("copy", "blocks.{i}.attention_norm.weight", ("model.layers.{i}.input_layernorm.weight",)),
    *_joined("weight"),
    *_joined("bias"),
    Entry("copy", "blocks.{i}.attention.q_norm", ("model.layers.{i}.self_attn.q_norm.weight",)),
    Entry("copy", "blocks.{i}.attention.k_norm", ("model.layers.{i}.self_attn.k_norm.weight",)),
    Entry("copy", "blocks.{i}.attention.out.weight", ("model.layers.{i}.self_attn.o_proj.weight",)),
    Entry("copy", "blocks.{i}.attention.out.bias", ("model.layers.{i}.self_attn.o_proj.bias",)),
    Entry("copy", "blocks.{i}.mlp_norm.weight", ("model.layers.{i}.post_attention_layernorm.weight",)),
    Entry("copy", "blocks.{i}.mlp.down.weight", ("model.layers.{i}.mlp.down_proj.weight",)),
    Entry("copy", "blocks.{i}.mlp.down.bias", ("model.layers.{i}.mlp.down_proj.bias",)),
    Entry("copy", "final_norm.weight", ("model.norm.weight",)),
    Entry("copy", "head.weight", (_HEAD,)),
)


def load_decoder(folder: Path) -> Decoder:
    """A float32 Decoder from a Hugging Face folder or from one of ours, on the CPU.

    Raises:
        NotFound: no such folder, no config.json, no weights, or a missing shard.
        PickleRefused: the weights are there only as pickles.
        ArchitectureUnknown: a family that Cerulea does not read.
        WeightsInvalid: a damaged file, an option that is not computed, or tensors that do not fit the config.
        ShapeInvalid: sizes in the config that contradict one another.
    """
    files = _weight_files(folder)
    config = _read_json(folder / "config.json")
    read_shape(config)  # refuses what we cannot compute before gigabytes are read
    shape, tensors = from_file_form(config, _read_tensors(files))
    decoder = _hollow(shape)
    decoder.load_state_dict(tensors, assign=True)
    if shape.rope_base:
        decoder.rope_cos, decoder.rope_sin = rope_tables(shape)
    assert not any(tensor.is_meta for tensor in (*decoder.parameters(), *decoder.buffers()))
    return decoder


def save_decoder(decoder: Decoder, folder: Path, *, end_of_text: int | None = None) -> None:
    """Write config.json and model.safetensors into `folder`; a Hugging Face folder where the shape allows."""
    config, tensors = file_form(decoder.shape, decoder.state_dict(), end_of_text=end_of_text)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata=METADATA)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def file_form(
    shape: DecoderShape, tensors: Mapping[str, Tensor], *, end_of_text: int | None = None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The config and the tensors of a decoder's folder, by the names of the family that its shape fits.

    Args:
        shape: the decoder's.
        tensors: the decoder's `state_dict`.
        end_of_text: token that ends a document, where the tokenizer has one.

    Returns:
        The content of config.json, and what to store in model.safetensors with METADATA: contiguous float32
        tensors on the CPU, no two of which share memory. Some may be the given tensors themselves.
    """
    family = family_of(shape)
    stored = {}
    for name, tensor in tensors.items():
        entry = _entry(family, name)
        for their_name, part in zip(entry.theirs, entry.write(tensor.detach(), shape), strict=True):
            stored[their_name] = _alone(part.to("cpu", torch.float32))
    return family_config(shape, end_of_text=end_of_text), stored


def from_file_form(config: Mapping[str, Any], stored: Mapping[str, Tensor]) -> tuple[DecoderShape, dict[str, Tensor]]:
    """The shape and the parameters, by our names and in memory of their own; the other way of `file_form`.

    Args:
        config: the content of config.json.
        stored: the tensors of all its safetensors files, by the names there.

    Raises:
        ArchitectureUnknown, WeightsInvalid, ShapeInvalid: as `load_decoder`.
    """
    shape = read_shape(config)
    family = config["model_type"]
    left = _full_names(family, shape, stored)
    found, missing, other = {}, [], []
    for name, parameter in _hollow(shape).named_parameters():
        entry, size = _entry(family, name), tuple(parameter.shape)
        parts = []
        for their_name, their_size in zip(entry.theirs, entry.sizes(shape, size), strict=True):
            part = left.pop(their_name, None)
            if part is None:
                missing.append(their_name)
            elif tuple(part.shape) != their_size:
                other.append(f"{their_name} is {tuple(part.shape)} instead of {their_size}")
            elif part.dtype not in _FLOATS:
                other.append(
                    f"{their_name} is {str(part.dtype).removeprefix('torch.')} instead of a float of 16 or 32 bits"
                )
            else:
                parts.append(part)
        if len(parts) == len(entry.theirs):
            found[name] = entry.read(parts)
    if shape.tied and family != OWN:
        _check_tied_head(left.pop(_HEAD, None), found.get("embedding.weight"))
    troubles = [("missing", missing), ("not part of it", sorted(left)), ("of another form", other)]
    if any(names for _, names in troubles):
        raise WeightsInvalid(
            f"The weights do not fit their config.json ({family}): "
            + "; ".join(f"{_some(names)} {trouble}" for trouble, names in troubles if names)
            + ".",
            why="Every tensor of the model must be there once, in its shape.",
            fix="Take the whole folder from its source again.",
        )
    return shape, found


def _hollow(shape: DecoderShape) -> Decoder:
    """A decoder without memory: names and sizes only, and no random numbers drawn."""
    with torch.device("meta"):
        return Decoder(shape)


def _entry(family: str, name: str) -> Entry:
    """The table's line for one of our parameters, with its layer put in."""
    if family == OWN:
        return Entry("copy", name, (name,))
    match = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
    layer = match[1] if match else ""
    entry = (_GPT2 if family == "gpt2" else _LLAMA)[f"blocks.{{i}}.{match[2]}" if match else name]
    return Entry(entry.operation, name, tuple(theirs.replace("{i}", layer) for theirs in entry.theirs))


def _full_names(family: str, shape: DecoderShape, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The stored tensors by their full names: with the prefix that some files lack, without buffers."""
    if family == OWN:
        return dict(stored)
    prefix = "transformer." if family == "gpt2" else "model."
    full: dict[str, Tensor] = {}
    for name, tensor in stored.items():
        if _BUFFER.fullmatch(name):
            continue
        their_name = name if name == _HEAD or name.startswith(prefix) else prefix + name
        if their_name in full:
            raise WeightsInvalid(
                f"The weights hold {their_name} twice, with and without its prefix.",
                fix="Remove the one that is not meant.",
            )
        full[their_name] = tensor
    embedding = _entry(family, "embedding.weight").theirs[0]
    if shape.tied and embedding not in full and _HEAD in full:
        full[embedding] = full[_HEAD]  # of two tied names a writer keeps either
    return full


def _check_tied_head(head: Tensor | None, embedding: Tensor | None) -> None:
    if head is None or embedding is None or torch.equal(head.to(torch.float32), embedding):
        return
    raise WeightsInvalid(
        f"config.json ties the head to the token embedding, but {_HEAD} is another tensor.",
        why="One of the two is wrong, and nothing here says which.",
        fix="Set tie_word_embeddings to false in config.json, or remove that tensor.",
    )


def _alone(tensor: Tensor) -> Tensor:
    """The tensor, contiguous and with storage of its own: safetensors refuses tensors that share it."""
    tensor = tensor.contiguous()
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def _weight_files(folder: Path) -> dict[Path, list[str] | None]:
    """The safetensors files of a folder, each with the tensors to take from it, or None for all."""
    if not folder.is_dir():
        if folder.suffix in _PICKLES and folder.is_file():
            raise _pickle_refused(folder.parent, [folder])
        raise NotFound(
            f"There is no model folder {folder}.", fix="Give a folder with config.json and model.safetensors."
        )
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.is_file():
        return {whole: None}
    if index.is_file():
        return _shards(index)
    pickles = [file for file in sorted(folder.iterdir()) if file.suffix in _PICKLES]
    pickles = [file for file in pickles if not file.stem.startswith(_NO_WEIGHTS)]
    if pickles:
        raise _pickle_refused(folder, pickles)
    raise NotFound(f"There is no model.safetensors in {folder}.", fix="Give the folder that holds the model's weights.")


def _shards(index: Path) -> dict[Path, list[str] | None]:
    places = _read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise WeightsInvalid(f"{index} has no weight_map.", fix="Take the folder from its source again.")
    files: dict[Path, list[str] | None] = {}
    for name, file in places.items():
        # Plain names only: a path could reach out of the folder. (A link may: the Hugging Face cache is made of them.)
        if not isinstance(file, str) or not re.fullmatch(r"[^/\\:\0]+\.safetensors", file):
            raise WeightsInvalid(
                f"{index} places {name} in {file!r}.",
                why="A shard is a safetensors file that lies beside its index.",
                fix="Do not use this folder unless you know where it comes from.",
            )
        if not (index.parent / file).is_file():
            raise NotFound(
                f"{index.parent} lacks the shard {file}.", fix="Download it again: a part of it did not arrive."
            )
        names = files.setdefault(index.parent / file, [])
        assert names is not None
        names.append(name)
    return files


def _read_tensors(files: Mapping[Path, list[str] | None]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for file, names in files.items():
        try:
            held = load_file(file)
        except (SafetensorError, OSError) as error:
            raise WeightsInvalid(
                f"{file} cannot be read: {error}.", fix="Download or write it again: it is damaged or cut short."
            ) from error
        absent = [name for name in names or () if name not in held]
        if absent:
            raise WeightsInvalid(
                f"{file} lacks {_some(absent)}, which its index places there.",
                fix="Take the whole folder from its source again.",
            )
        tensors.update(held if names is None else {name: held[name] for name in names})
    return tensors


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise NotFound(
            f"There is no {file.name} in {file.parent}.",
            why="It says what the weights mean.",
            fix="Give the folder that holds the whole model.",
        )
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise WeightsInvalid(f"{file} is not JSON: {error}.", fix="Take it from the model's source again.") from error
    if not isinstance(values, dict):
        raise WeightsInvalid(f"{file} is not a JSON object.", fix="Take it from the model's source again.")
    return values


def refuse_pickle(file: Path) -> None:
    """Refuse a file of a kind that could run code when it is opened.

    Raises:
        PickleRefused: it is one.
    """
    if file.suffix.lower() in (*_PICKLES, ".pkl", ".pickle"):
        raise _pickle_refused(file.parent, [file])


def _pickle_refused(folder: Path, pickles: list[Path]) -> PickleRefused:
    """Refuse, with one line that converts: weights_only loads tensors and runs no code."""
    code = (
        "import torch; from safetensors.torch import save_file; "
        f"files = {[str(file) for file in pickles]}; "
        "load = lambda file: torch.load(file, map_location='cpu', weights_only=True); "
        "tensors = {name: tensor.clone().contiguous() for file in files for name, tensor in load(file).items()}; "
        f"save_file(tensors, {str(folder / 'model.safetensors')!r}, metadata={METADATA})"
    )
    return PickleRefused(
        f"The weights in {folder} are pickles: {_some([file.name for file in pickles])}.",
        why="Opening a pickle can run any code that its author put there.",
        fix=f"Convert what you trust: python -c {shlex.quote(code)}",
    )


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:_NAMED])
    return shown if len(names) <= _NAMED else f"{shown} and {len(names) - _NAMED:,} more"
