"""Model folders against transformers: the same numbers, the same bits, and every bad folder refused by name."""

from __future__ import annotations

import json
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from cerulea.core.errors import ArchitectureUnknown, CeruleaError, NotFound, PickleRefused, WeightsInvalid
from cerulea.nn.attention import KVCache
from cerulea.nn.decoder import Decoder
from cerulea.nn.shape import DecoderShape, RopeScaling, preset_shape
from cerulea.nn.weights import file_form, from_file_form, is_hugging_face, load_decoder, read_shape, save_decoder

transformers = pytest.importorskip("transformers")

VOCAB, TOKENS = 96, 24
GPT2_SIZES = {"vocab_size": VOCAB, "n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 4}
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "bos_token_id": None,
    "eos_token_id": None,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    # With 32 tokens the four frequencies of a head fall on all three branches of the formula.
    "original_max_position_embeddings": 32,
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", GPT2_SIZES),
    "gpt2-untied-inner": ("gpt2", {**GPT2_SIZES, "n_inner": 40, "tie_word_embeddings": False}),
    "llama-untied": ("llama", {**SIZES, "rms_norm_eps": 1e-5}),
    "llama-tied": ("llama", {**SIZES, "tie_word_embeddings": True}),
    "llama-biased": ("llama", {**SIZES, "attention_bias": True, "mlp_bias": True, "num_key_value_heads": None}),
    "llama-3": ("llama", {**SIZES, "rope_parameters": LLAMA3, "head_dim": 16}),
    "mistral": ("mistral", {**SIZES, "sliding_window": 7, "head_dim": 12}),
    "mistral-full": ("mistral", {**SIZES, "sliding_window": None}),
    "qwen2": ("qwen2", {**SIZES, "tie_word_embeddings": True, "rope_parameters": {"rope_theta": 1e6}}),
    "qwen2-window": (
        "qwen2",
        {**SIZES, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 0},
    ),
    "qwen3": ("qwen3", {**SIZES, "head_dim": 16}),
    "qwen3-biased": ("qwen3", {**SIZES, "head_dim": 8, "attention_bias": True, "tie_word_embeddings": True}),
}


def peer(name: str) -> Any:
    """A model of transformers whose every parameter is far from what initialisation would give."""
    family, settings = FAMILIES[name]
    config = transformers.AutoConfig.for_model(family, **settings)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    draw = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            offset = 1.0 if "norm" in key or ".ln_" in key else 0.0
            spread = 0.3 if parameter.ndim == 1 else 0.25
            parameter.copy_(offset * (not key.endswith("bias")) + spread * torch.randn(parameter.shape, generator=draw))
    return model


def tokens(rows: int = 2, seed: int = 3) -> torch.Tensor:
    return torch.randint(0, VOCAB, (rows, TOKENS + 1), generator=torch.Generator().manual_seed(seed))


def folder_of(tmp_path: Path, name: str, **options: Any) -> Path:
    peer(name).save_pretrained(tmp_path / name, **options)
    return tmp_path / name


def change(folder: Path, **keys: Any) -> None:
    """Put keys into config.json; None removes one."""
    config = json.loads((folder / "config.json").read_text()) | keys
    (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def restore(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, folder / "model.safetensors")


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_and_gradients_are_those_of_transformers(name: str, tmp_path: Path):
    """Random weights, norms and biases; logits within 1e-4, each gradient within 1e-4 of its largest value."""
    theirs, ours = peer(name), load_decoder(folder_of(tmp_path, name))
    token_BT, target_BT = tokens()[:, :-1], tokens()[:, 1:]

    their_logits = theirs(token_BT).logits
    F.cross_entropy(their_logits.flatten(0, 1), target_BT.flatten(), reduction="sum").backward()
    logits = ours(token_BT)
    ours.loss(token_BT, target_BT).backward()

    assert their_logits.std() > 0.5
    assert (logits - their_logits).abs().max() <= 1e-4
    their_gradients = {key: parameter.grad for key, parameter in theirs.named_parameters()}
    _, expected = from_file_form(theirs.config.to_dict(), their_gradients)
    gradients = {key: parameter.grad for key, parameter in ours.named_parameters()}
    assert gradients.keys() == expected.keys()
    for key, gradient in gradients.items():
        scale = expected[key].abs().max()
        assert scale > 0, key
        assert (gradient - expected[key]).abs().max() <= 1e-4 * scale, key


@pytest.mark.parametrize("name", FAMILIES)
def test_cached_decoding_is_the_full_forward_pass(name: str, tmp_path: Path):
    """A prompt of 9, a piece of 4, then one token at a time."""
    decoder = load_decoder(folder_of(tmp_path, name)).eval()
    token_BT = tokens()[:, :TOKENS]

    with torch.no_grad():
        full = decoder(token_BT)
        cache = KVCache(decoder.shape, 2, TOKENS, full)
        edges = [0, 9, 13, *range(14, TOKENS + 1)]
        pieces = [decoder(token_BT[:, a:b], cache) for a, b in pairwise(edges)]

    assert (torch.cat(pieces, dim=1) - full).abs().max() <= 1e-4


@pytest.mark.parametrize("name", FAMILIES)
def test_import_export_import_is_equal_bit_for_bit(name: str, tmp_path: Path):
    """And the export is of the same family, equal in every tensor that transformers wrote."""
    first = load_decoder(folder_of(tmp_path, name))

    save_decoder(first, tmp_path / "out", end_of_text=5)
    second = load_decoder(tmp_path / "out")

    assert second.shape == first.shape
    assert_equal(second.state_dict(), first.state_dict())
    assert_equal(load_file(tmp_path / "out" / "model.safetensors"), load_file(tmp_path / name / "model.safetensors"))
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    # A Mistral without a window is a Llama in all but its name.
    assert written["model_type"] == ("llama" if name == "mistral-full" else FAMILIES[name][0])
    assert written["eos_token_id"] == 5


@pytest.mark.parametrize("name", FAMILIES)
def test_transformers_loads_an_export(name: str, tmp_path: Path):
    """The exported config and tensors give transformers the logits of the model they came from."""
    save_decoder(load_decoder(folder_of(tmp_path, name)), tmp_path / "out")

    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", attn_implementation="eager").eval()

    with torch.no_grad():
        assert (again(tokens()).logits - peer(name)(tokens()).logits).abs().max() <= 1e-5
    assert again.config.eos_token_id is None


@pytest.mark.parametrize(("preset", "kv_heads"), [("gpt2", None), ("compat", None), ("compat", 2)])
def test_transformers_gives_a_preset_the_same_loss(preset: str, kv_heads: int | None, tmp_path: Path):
    """What a run saves is a Hugging Face folder, with nothing missing and nothing left over."""
    shape = preset_shape(preset, vocab=VOCAB, layers=3, width=48, heads=4, kv_heads=kv_heads, context=32)
    decoder = shaken(Decoder(shape)).eval()
    save_decoder(decoder, tmp_path, end_of_text=1)

    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)

    assert type(theirs).__name__ == {"gpt2": "GPT2LMHeadModel", "compat": "Qwen3ForCausalLM"}[preset]
    assert not any(report.values())
    assert sum(p.numel() for p in theirs.parameters()) == shape.parameters()
    with torch.no_grad():
        expected = theirs(tokens(), labels=tokens()).loss
        loss = decoder.loss(tokens()[:, :-1], tokens()[:, 1:]) / (2 * TOKENS)
    assert abs(loss - expected) <= 1e-5


def test_a_modern_decoder_keeps_its_own_form(tmp_path: Path):
    """No Hugging Face class computes it, so the folder is ours and comes back bit for bit."""
    shape = preset_shape("modern", vocab=VOCAB, layers=3, width=48, heads=4, kv_heads=2, context=32)
    decoder = shaken(Decoder(shape)).eval()

    save_decoder(decoder, tmp_path)
    again = load_decoder(tmp_path).eval()

    config = json.loads((tmp_path / "config.json").read_text())
    assert not is_hugging_face(shape)
    assert config["model_type"] == "cerulea"
    assert config["tie_word_embeddings"] is False
    assert again.shape == shape
    assert_equal(again.state_dict(), decoder.state_dict())
    assert torch.equal(again(tokens()[:, :32]), decoder(tokens()[:, :32]))


def test_loading_draws_no_random_numbers_and_leaves_the_file_alone(tmp_path: Path):
    """A run that starts from a folder is seeded by its recipe only; the folder may be overwritten meanwhile."""
    folder = folder_of(tmp_path, "llama-untied")
    state = torch.get_rng_state()

    decoder = load_decoder(folder)
    before = {name: tensor.clone() for name, tensor in decoder.state_dict().items()}
    (folder / "model.safetensors").write_bytes(bytes(200_000))

    assert torch.equal(torch.get_rng_state(), state)
    assert_equal(decoder.state_dict(), before)
    assert all(p.requires_grad and p.dtype == torch.float32 and p.is_contiguous() for p in decoder.parameters())
    assert {name for name, _ in decoder.named_buffers()} == {"rope_cos", "rope_sin"}


def test_stored_tensors_share_no_memory():
    """safetensors refuses what does, and a later step must not reach a tensor through another."""
    shape = preset_shape("compat", vocab=VOCAB, layers=2, width=48, heads=4, kv_heads=2, context=32)
    flat = torch.randn(shape.parameters())
    tensors, start = {}, 0
    for name, parameter in Decoder(shape).named_parameters():
        tensors[name] = flat[start : start + parameter.numel()].view(parameter.shape)
        start += parameter.numel()

    _, stored = file_form(shape, tensors)

    assert all(tensor.is_contiguous() and tensor.dtype == torch.float32 for tensor in stored.values())
    assert len({tensor.untyped_storage().data_ptr() for tensor in stored.values()}) == len(stored)


def test_a_config_written_for_transformers_4_and_5_reads_back():
    """rope_theta and rope_scaling for 4, rope_parameters for 5; the shape is the same by either."""
    scaling = RopeScaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=64)
    shape = llama_shape(rope_base=5e5, rope_scaling=scaling)

    config, _ = file_form(shape, {})
    older = {key: value for key, value in config.items() if key != "rope_parameters"}
    newer = {key: value for key, value in config.items() if key not in ("rope_theta", "rope_scaling")}

    assert config["tie_word_embeddings"] is True
    assert read_shape(config) == read_shape(older) == read_shape(newer) == shape


@pytest.mark.parametrize(
    ("change", "family"),
    [
        ({}, "llama"),
        ({"mlp_bias": True}, "llama"),
        ({"qkv_bias": True, "out_bias": True}, "llama"),
        ({"head_size": 20}, "llama"),
        ({"width": 50}, "mistral"),  # transformers takes a Llama only where the heads divide the width
        ({"window": 9}, "mistral"),
        ({"qkv_bias": True}, "qwen2"),
        ({"qkv_bias": True, "window": 9}, "qwen2"),
        ({"qk_norm": "rms"}, "qwen3"),
        ({"qk_norm": "rms", "qkv_bias": True, "out_bias": True, "window": 9}, "qwen3"),
        ({"qk_norm": "rms", "qkv_bias": True}, "cerulea"),
        ({"qk_norm": "rms", "mlp_bias": True}, "cerulea"),
        ({"out_bias": True}, "cerulea"),
        ({"mlp_bias": True, "window": 9}, "cerulea"),
        ({"qk_norm": "plain_rms"}, "cerulea"),
        ({"softcap": 15.0}, "cerulea"),
        ({"norm": "plain_rms"}, "cerulea"),
        ({"norm": "layer"}, "cerulea"),
        ({"activation": "relu2"}, "cerulea"),
        ({"activation": "gelu_tanh"}, "cerulea"),
        ({"rope_base": 0.0}, "cerulea"),
        ({"embedding_norm": True}, "cerulea"),
        ({"residual_scalars": True}, "cerulea"),
        ({"value_embeddings": True}, "cerulea"),
    ],
)
def test_a_shape_is_written_as_the_family_that_computes_all_of_it(change: dict[str, Any], family: str, tmp_path: Path):
    """And whatever it is written as, it comes back the same."""
    shape = llama_shape(**change)
    decoder = shaken(Decoder(shape))

    save_decoder(decoder, tmp_path)

    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == family
    assert is_hugging_face(shape) == (family != "cerulea")
    assert load_decoder(tmp_path).shape == shape
    assert_equal(load_decoder(tmp_path).state_dict(), decoder.state_dict())
    if family != "cerulea":
        theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
        with torch.no_grad():
            assert (theirs(tokens()).logits - decoder(tokens())).abs().max() <= 1e-4


# What a folder may look like


def test_shards_are_read(tmp_path: Path):
    """As transformers cuts them, here at 20 kB."""
    sharded = folder_of(tmp_path / "shards", "qwen3", max_shard_size="20KB")

    assert len(list(sharded.glob("*.safetensors"))) > 2
    assert_equal(load_decoder(sharded).state_dict(), load_decoder(folder_of(tmp_path, "qwen3")).state_dict())


@pytest.mark.parametrize("name", ["gpt2", "llama-tied"])
def test_the_prefix_may_be_missing_and_buffers_may_be_there(name: str, tmp_path: Path):
    """GPT-2's own file on the hub is like this: no `transformer.`, a causal mask in every layer."""
    folder = folder_of(tmp_path, name)
    expected = load_decoder(folder).state_dict()
    prefix = "transformer." if name == "gpt2" else "model."
    tensors = {key.removeprefix(prefix): value for key, value in load_file(folder / "model.safetensors").items()}
    tensors |= {"h.0.attn.bias": torch.ones(1, 1, 32, 32), "h.1.attn.masked_bias": torch.tensor(-1e4)}
    tensors |= {"layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    restore(folder, tensors)

    assert_equal(load_decoder(folder).state_dict(), expected)


@pytest.mark.parametrize("kept", ["both", "head only"])
def test_a_tied_model_may_store_its_head(kept: str, tmp_path: Path):
    """Some writers store both names of the one tensor, some only the head's."""
    folder = folder_of(tmp_path, "gpt2")
    expected = load_decoder(folder).state_dict()
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"]
    if kept == "head only":
        del tensors["transformer.wte.weight"]
    restore(folder, tensors)

    assert_equal(load_decoder(folder).state_dict(), expected)


def test_a_missing_tie_flag_means_what_the_family_means(tmp_path: Path):
    """GPT-2 is tied by default, Llama is not."""
    for name, tied in (("gpt2", True), ("llama-untied", False)):
        folder = folder_of(tmp_path, name)
        change(folder, tie_word_embeddings=None)

        assert load_decoder(folder).shape.tied is tied


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_becomes_float32(dtype: torch.dtype, tmp_path: Path):
    """Every value as stored; our parameters are always float32."""
    folder = folder_of(tmp_path, "qwen2")
    halves = {key: value.to(dtype) for key, value in load_file(folder / "model.safetensors").items()}
    restore(folder, halves)

    decoder = load_decoder(folder)

    _, stored = file_form(decoder.shape, decoder.state_dict())
    assert_equal(stored, {key: value.float() for key, value in halves.items()})


def test_an_export_is_marked_for_transformers_4(tmp_path: Path):
    """It refuses a file whose metadata does not say `pt`."""
    save_decoder(load_decoder(folder_of(tmp_path, "qwen3")), tmp_path / "out")

    with safe_open(tmp_path / "out" / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


# What a folder must not be


def test_only_pickles_are_refused_and_the_command_given_converts_them(tmp_path: Path):
    """A folder of two pickles, with a quote in its name; the trainer's own files are no weights."""
    folder = folder_of(tmp_path / "it's", "gpt2")
    expected = load_decoder(folder).state_dict()
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    torch.save({name: tensors[name] for name in names[:9]}, folder / "pytorch_model-1.bin")
    torch.save({name: tensors[name] for name in names[9:]}, folder / "pytorch_model-2.bin")
    (folder / "training_args.bin").write_bytes(b"x")

    with pytest.raises(PickleRefused, match=r"pytorch_model-1.bin, pytorch_model-2.bin\.") as caught:
        load_decoder(folder)

    program, option, code = shlex.split(caught.value.fix.partition(": ")[2])
    assert (program, option) == ("python", "-c")
    exec(code, {})
    assert_equal(load_decoder(folder).state_dict(), expected)


@pytest.mark.parametrize("file", ["model.pt", "model.pth", "model.ckpt", "pytorch_model.bin"])
def test_a_pickle_is_refused_by_any_of_its_names(file: str, tmp_path: Path):
    """In a folder or as the path itself; it is not opened."""
    (tmp_path / file).write_bytes(b"\x80")

    for path in (tmp_path, tmp_path / file):
        with pytest.raises(PickleRefused, match=file):
            load_decoder(path)


def test_a_header_that_claims_a_gigabyte_is_refused_unread(tmp_path: Path):
    """Eight bytes say how long the header is; nobody makes room for it on their word, nor opens an archive's files."""
    folder = folder_of(tmp_path, "gpt2")
    for content in ((1 << 30).to_bytes(8, "little") + b"{", b"\xff" * 8 + b"{", b"PK\x03\x04../../x"):
        (folder / "model.safetensors").write_bytes(content)
        with pytest.raises(WeightsInvalid, match=r"model\.safetensors"):
            load_decoder(folder)

    assert not (tmp_path.parent / "x").exists()


def test_a_folder_without_its_files_is_not_found(tmp_path: Path):
    """No folder, an empty one, one without weights, one without config.json."""
    folder = folder_of(tmp_path, "gpt2")
    (tmp_path / "empty").mkdir()
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_text("{}")
    (folder / "config.json").unlink()

    for path in (tmp_path / "nothing", tmp_path / "empty", tmp_path / "bare", folder):
        with pytest.raises(NotFound):
            load_decoder(path)


def test_a_missing_shard_is_named(tmp_path: Path):
    """A download that stopped half-way."""
    folder = folder_of(tmp_path, "qwen3", max_shard_size="20KB")
    gone = sorted(folder.glob("*.safetensors"))[1]
    gone.unlink()

    with pytest.raises(NotFound, match=gone.name):
        load_decoder(folder)


@pytest.mark.parametrize(
    "file", ["../model.safetensors", "/etc/model.safetensors", "a\\b.safetensors", "x.bin", "..", 3]
)
def test_an_index_cannot_reach_out_of_its_folder(file: Any, tmp_path: Path):
    """Nor name a pickle, even where that file exists."""
    folder = folder_of(tmp_path, "gpt2")
    (folder / "model.safetensors").rename(tmp_path / "model.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"transformer.wte.weight": file}}))

    with pytest.raises(WeightsInvalid, match="beside its index"):
        load_decoder(folder)


@pytest.mark.parametrize("index", ["[]", "{}", '{"weight_map": []}', '{"weight_map":', '{"weight_map": {}}'])
def test_a_malformed_index_is_refused(index: str, tmp_path: Path):
    """Not JSON, no object, no map, an empty one."""
    folder = folder_of(tmp_path, "gpt2")
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    (folder / "model.safetensors.index.json").write_text(index)

    with pytest.raises(WeightsInvalid, match=r"index\.json"):
        load_decoder(folder)


def test_an_index_that_places_a_tensor_wrongly_is_refused(tmp_path: Path):
    """The shard does not hold what the index says."""
    folder = folder_of(tmp_path, "gpt2")
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    index = {"weight_map": {"transformer.wte.weight": "other.safetensors", "ghost": "other.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    with pytest.raises(WeightsInvalid, match="lacks ghost"):
        load_decoder(folder)


@pytest.mark.parametrize("architecture", ["gemma2", "t5", None, 3, ["gpt2"]])
def test_an_unknown_architecture_is_refused_with_the_known_ones(architecture: Any, tmp_path: Path):
    """Before the weights are looked into."""
    folder = folder_of(tmp_path, "gpt2")
    change(folder, model_type=architecture)
    (folder / "model.safetensors").write_bytes(b"")

    with pytest.raises(ArchitectureUnknown, match="gpt2, llama, mistral, qwen2, qwen3, cerulea"):
        load_decoder(folder)


def test_missing_left_over_and_misshapen_tensors_are_named(tmp_path: Path):
    """All three kinds in one message, the first few names of each."""
    folder = folder_of(tmp_path, "llama-untied")
    tensors = load_file(folder / "model.safetensors")
    del tensors["lm_head.weight"], tensors["model.layers.1.self_attn.k_proj.weight"]
    tensors["model.norm.weight"] = torch.ones(31)
    tensors["model.layers.0.mlp.up_proj.weight"] = torch.ones(48, 32, dtype=torch.int8)
    tensors |= {f"model.layers.{i}.mlp.up_proj.weight": torch.ones(48, 32) for i in range(2, 9)}
    restore(folder, tensors)

    with pytest.raises(WeightsInvalid) as caught:
        load_decoder(folder)

    for part in (
        "model.layers.1.self_attn.k_proj.weight, lm_head.weight missing",
        "model.layers.5.mlp.up_proj.weight and 3 more not part of it",
        "model.norm.weight is (31,) instead of (32,)",
        "model.layers.0.mlp.up_proj.weight is int8",
    ):
        assert part in caught.value.what


def test_a_name_with_and_without_its_prefix_is_refused(tmp_path: Path):
    """Nothing says which of the two is meant."""
    folder = folder_of(tmp_path, "gpt2")
    restore(folder, load_file(folder / "model.safetensors") | {"wte.weight": torch.zeros(VOCAB, 32)})

    with pytest.raises(WeightsInvalid, match=r"transformer\.wte\.weight twice"):
        load_decoder(folder)


def test_a_head_that_contradicts_its_tie_is_refused(tmp_path: Path):
    """With the flag set to false the same folder is an untied model."""
    folder = folder_of(tmp_path, "gpt2")
    head = torch.randn(VOCAB, 32)
    restore(folder, load_file(folder / "model.safetensors") | {"lm_head.weight": head})

    with pytest.raises(WeightsInvalid, match="tie_word_embeddings"):
        load_decoder(folder)
    change(folder, tie_word_embeddings=False)
    assert torch.equal(load_decoder(folder).head_weight, head)


@pytest.mark.parametrize("damage", ["empty", "noise", "cut"])
def test_a_damaged_file_is_refused(damage: str, tmp_path: Path):
    """Empty, not safetensors at all, or cut short."""
    folder = folder_of(tmp_path, "gpt2")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes({"empty": b"", "noise": b"\xff" * 999, "cut": whole[:-100]}[damage])

    with pytest.raises(WeightsInvalid, match="damaged or cut short"):
        load_decoder(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\xff"])
def test_a_config_that_is_no_json_object_is_refused(text: str, tmp_path: Path):
    """Cut short, empty, another type, not UTF-8."""
    folder = folder_of(tmp_path, "gpt2")
    (folder / "config.json").write_bytes(text.encode("latin-1"))

    with pytest.raises(WeightsInvalid, match=r"config\.json"):
        load_decoder(folder)


GPT2 = {"model_type": "gpt2", **GPT2_SIZES}
LLAMA = {"model_type": "llama", **SIZES}
MISTRAL = {"model_type": "mistral", **SIZES}
QWEN = {"model_type": "qwen2", **SIZES}
WINDOW = {"use_sliding_window": True, "sliding_window": 8}


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (GPT2 | {"activation_function": "relu"}, "activation_function = 'relu'"),
        (GPT2 | {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        (GPT2 | {"scale_attn_weights": False}, "scale_attn_weights"),
        (GPT2 | {"add_cross_attention": True}, "add_cross_attention"),
        (GPT2 | {"n_head": "4"}, "n_head = '4'"),
        (GPT2 | {"n_layer": True}, "n_layer = True"),
        (GPT2 | {"layer_norm_epsilon": float("nan")}, "layer_norm_epsilon"),
        (GPT2 | {"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
        (GPT2 | {"quantization_config": {"bits": 4}}, "quantization_config"),
        ({key: value for key, value in GPT2.items() if key != "n_embd"}, "lacks n_embd"),
        (LLAMA | {"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
        (LLAMA | {"rope_scaling": {"type": "linear", "factor": 2.0}}, "'linear'"),
        (LLAMA | {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}}, "'yarn'"),
        (LLAMA | {"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "differ between layers"),
        (LLAMA | {"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        (LLAMA | {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        (LLAMA | {"rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5}}, "rope_theta more than once"),
        (LLAMA | {"rope_theta": "1e4"}, "rope_theta = '1e4'"),
        (LLAMA | {"rope_theta": 0}, "rope_theta = 0"),
        (LLAMA | {"rope_scaling": "linear"}, "no JSON object"),
        (LLAMA | {"rope_parameters": LLAMA3 | {"high_freq_factor": 1.0}}, "high_freq_factor"),
        (LLAMA | {"rope_parameters": {"rope_type": "llama3"}}, "lacks factor"),
        (MISTRAL | {"sliding_window": 0}, "sliding_window = 0"),
        (MISTRAL | {"layer_types": ["full_attention", "sliding_attention"]}, "some of 2 layers"),
        (MISTRAL | {"layer_types": ["full_attention"] * 2}, "some of 2 layers"),
        (QWEN | WINDOW | {"max_window_layers": 1}, "some of 2 layers"),
        (QWEN | WINDOW | {"layer_types": ["sliding_attention", "full_attention"]}, "some of 2 layers"),
        (QWEN | {"layer_types": ["sliding_attention"] * 2}, "some of 2 layers"),
        (QWEN | {"layer_types": ["chunked_attention"] * 2}, "some of 2 layers"),
        ({"model_type": "cerulea"}, "shape"),
        ({"model_type": "cerulea", "shape": {"vocab": 3}}, "shape"),
        ({"model_type": "cerulea", "shape": [1]}, "shape"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(config: dict[str, Any], named: str):
    """Never left out, never guessed."""
    with pytest.raises(WeightsInvalid) as caught:
        read_shape(config)

    assert named in caught.value.what
    assert caught.value.fix


@pytest.mark.parametrize(("name", "value"), [("norm", "batch"), ("activation", "relu"), ("qk_norm", "layer")])
def test_a_later_version_of_our_own_form_is_refused(name: str, value: str):
    """A choice that this version does not know, and a key."""
    shape = llama_shape().as_json()

    with pytest.raises(WeightsInvalid, match=f"{name} = '{value}'"):
        read_shape({"model_type": "cerulea", "shape": {**shape, name: value}})
    with pytest.raises(WeightsInvalid, match="new_key"):
        read_shape({"model_type": "cerulea", "shape": {**shape, "new_key": 1}})


def test_sizes_that_contradict_one_another_have_a_code():
    """Three key-value heads for four heads, and no heads at all."""
    for change in ({"num_key_value_heads": 3}, {"num_attention_heads": 0}):
        with pytest.raises(CeruleaError) as caught:
            read_shape(LLAMA | change)
        assert caught.value.exit_code == 2


def test_missing_keys_mean_what_they_mean_to_transformers():
    """Head size and key-value heads from the others, Qwen3's heads of 128, Mistral's window, the base of 10,000."""
    without = {key: value for key, value in SIZES.items() if key != "num_key_value_heads"}

    llama = read_shape({"model_type": "llama", **without})
    assert (llama.head_size, llama.kv_heads, llama.norm_eps) == (8, 4, 1e-6)
    assert (llama.rope_base, llama.rope_scaling, llama.tied) == (10_000.0, None, False)
    assert read_shape({"model_type": "qwen3", **SIZES}).head_size == 128
    assert read_shape(MISTRAL).window == 4096
    assert read_shape(MISTRAL | {"sliding_window": None}).window == 0
    assert read_shape(QWEN | {"sliding_window": 8}).window == 0
    assert read_shape(QWEN | WINDOW | {"max_window_layers": 2}).window == 0
    assert read_shape(QWEN | WINDOW | {"max_window_layers": 0}).window == 8
    assert read_shape(QWEN | WINDOW | {"layer_types": ["sliding_attention"] * 2}).window == 8
    assert read_shape(GPT2).hidden == 128


def llama_shape(**changes: Any) -> DecoderShape:
    sizes = {"vocab": VOCAB, "context": 32, "layers": 2, "width": 48, "heads": 4, "kv_heads": 2, "head_size": 12}
    return DecoderShape(**{**sizes, "hidden": 56, **changes})


def shaken(decoder: Decoder) -> Decoder:
    """The decoder with noise on every parameter, as zeros and ones would hide a mistake."""
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=draw)
    return decoder


def assert_equal(ours: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == expected.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, expected[name]), name
