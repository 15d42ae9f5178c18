"""The families of models we read and write: a config.json as a DecoderShape, and back.

In:      a model folder's config.json as a dict, or a DecoderShape.
Out:     the shape that computes the same, or the config of the family that a shape fits.
Kept:    what a config asks for and the decoder cannot compute is refused by name, never left out;
         a missing key means what it means to transformers; a shape is written as a family's
         only where that config reads back as the very same shape.
Not here: torch, tensors and files (`weights`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args, get_type_hints

from cerulea.core.errors import ArchitectureUnknown, Invalid, WeightsInvalid
from cerulea.nn.shape import DecoderShape, RopeScaling, shape_from_json

OWN = "cerulea"  # model_type of what only this house computes
# model_type → the class that transformers loads; earlier ones are preferred where two fit.
HUGGING_FACE = {
    "gpt2": "GPT2LMHeadModel",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
# Where a key is missing and its absence matters: the defaults of transformers' config classes.
_QWEN = {"num_key_value_heads": 32, "sliding_window": 4096, "max_window_layers": 28}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "gpt2": {"activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True},
    "llama": {},
    "mistral": {"num_key_value_heads": 8, "sliding_window": 4096},
    "qwen2": _QWEN,
    "qwen3": {**_QWEN, "head_dim": 128},
}


def read_shape(config: Mapping[str, Any]) -> DecoderShape:
    """The shape that computes what this config.json describes.

    Raises:
        ArchitectureUnknown: a `model_type` that is none of ours.
        WeightsInvalid: a key is missing or malformed, or asks for something the decoder does not compute.
        ShapeInvalid: sizes that contradict one another.
    """
    family = config.get("model_type")
    if family == OWN:
        return _read_own(config)
    if not isinstance(family, str) or family not in HUGGING_FACE:
        raise ArchitectureUnknown(
            f"config.json names the architecture {family!r}, which Cerulea does not read.",
            why="Another architecture computes something else with its weights.",
            fix=f"Use a model whose model_type is one of: {', '.join((*HUGGING_FACE, OWN))}.",
        )
    if config.get("quantization_config"):
        raise _not_computed("quantised weights (quantization_config)")
    config = {**_DEFAULTS[family], **config}
    return _read_gpt2(config) if family == "gpt2" else _read_llama_like(family, config)


def family_of(shape: DecoderShape) -> str:
    """The `model_type` that a decoder of this shape is written as, `cerulea` where no other fits."""
    return next((family for family in HUGGING_FACE if _fits(shape, family)), OWN)


def is_hugging_face(shape: DecoderShape) -> bool:
    """Whether a decoder of this shape is written as a folder that transformers loads."""
    return family_of(shape) != OWN


def family_config(shape: DecoderShape, *, end_of_text: int | None = None) -> dict[str, Any]:
    """The config.json of a decoder, of the first family that it fits; `read_shape` gives the shape back.

    Args:
        shape: any; one that no family fits is written as our own.
        end_of_text: token that ends a document, written as the ids of beginning and end of text. Without it
            both are null: the defaults of transformers would stop at a token of some other tokenizer.
    """
    family = family_of(shape)
    return {
        **_config(shape, family),
        "tie_word_embeddings": shape.tied,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        "dtype": "float32",  # transformers 5
        "torch_dtype": "float32",  # transformers 4
    }


def _fits(shape: DecoderShape, family: str) -> bool:
    if family == "llama" and shape.width % shape.heads:
        return False  # transformers 5 refuses such a Llama and takes it as a Mistral, which computes the same
    try:
        return read_shape({**_config(shape, family), "tie_word_embeddings": shape.tied}) == shape
    except Invalid:
        return False


def _config(shape: DecoderShape, family: str) -> dict[str, Any]:
    """What a family's config can say of a shape; what it has no word for is lost, and `_fits` finds out."""
    if family == OWN:
        return {"model_type": OWN, "shape": shape.as_json()}
    names = {"model_type": family, "architectures": [HUGGING_FACE[family]], "vocab_size": shape.vocab}
    if family == "gpt2":
        return {
            **names,
            "n_positions": shape.context,
            "n_layer": shape.layers,
            "n_embd": shape.width,
            "n_head": shape.heads,
            "n_inner": shape.hidden,
            "activation_function": "gelu_new",
            "layer_norm_epsilon": shape.norm_eps,
            # Dropout belongs to a recipe; left out, transformers would train on with 0.1.
            "embd_pdrop": 0.0,
            "resid_pdrop": 0.0,
            "attn_pdrop": 0.0,
        }
    config = {
        **names,
        "max_position_embeddings": shape.context,
        "num_hidden_layers": shape.layers,
        "hidden_size": shape.width,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_size,
        "intermediate_size": shape.hidden,
        "hidden_act": "silu",
        "rms_norm_eps": shape.norm_eps,
        **_rope_keys(shape),
    }
    if family in ("llama", "qwen3"):
        config["attention_bias"] = shape.qkv_bias
    if family == "llama":
        config["mlp_bias"] = shape.mlp_bias
    else:
        config["sliding_window"] = shape.window or None
    if family in ("qwen2", "qwen3"):
        config["use_sliding_window"] = shape.window > 0
        config["max_window_layers"] = 0 if shape.window else shape.layers
    return config


def _rope_keys(shape: DecoderShape) -> dict[str, Any]:
    """Rotary positions as transformers 4 (`rope_theta`, `rope_scaling`) and 5 (`rope_parameters`) read them."""
    scaling = shape.rope_scaling
    stretch = scaling and {
        "rope_type": "llama3",
        "factor": scaling.factor,
        "low_freq_factor": scaling.low_freq_factor,
        "high_freq_factor": scaling.high_freq_factor,
        "original_max_position_embeddings": scaling.original_context,
    }
    return {
        "rope_theta": shape.rope_base,
        "rope_scaling": stretch,
        "rope_parameters": {"rope_theta": shape.rope_base, **(stretch or {"rope_type": "default"})},
    }


def _read_own(config: Mapping[str, Any]) -> DecoderShape:
    try:
        shape = shape_from_json(config["shape"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise WeightsInvalid(
            f"The shape in config.json cannot be read: {error}.",
            why="Each key must be one that this version of Cerulea knows.",
            fix="Read it with the version that wrote it, or write it again.",
        ) from error
    for name, hint in get_type_hints(DecoderShape).items():
        choices = get_args(hint)
        if choices and all(isinstance(choice, str) for choice in choices) and getattr(shape, name) not in choices:
            raise _not_computed(f"{name} = {getattr(shape, name)!r}")
    return shape


def _read_gpt2(config: Mapping[str, Any]) -> DecoderShape:
    # gelu_pytorch_tanh is the same function by another name.
    if config["activation_function"] not in ("gelu_new", "gelu_pytorch_tanh"):
        raise _not_computed(f"activation_function = {config['activation_function']!r}")
    for key, expected in {
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
    }.items():
        if _flag(config, key, default=expected) is not expected:
            raise _not_computed(f"{key} = {config[key]!r}")
    width, heads = _whole(config, "n_embd"), _whole(config, "n_head")
    return DecoderShape(
        vocab=_whole(config, "vocab_size"),
        context=_whole(config, "n_positions"),
        layers=_whole(config, "n_layer"),
        width=width,
        heads=heads,
        kv_heads=heads,
        head_size=width // max(heads, 1),
        hidden=_whole(config, "n_inner") if config.get("n_inner") is not None else 4 * width,
        norm="layer",
        norm_eps=_positive(config, "layer_norm_epsilon"),
        rope_base=0.0,
        activation="gelu_tanh",
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
        tied=_flag(config, "tie_word_embeddings", default=True),
    )


def _read_llama_like(family: str, config: Mapping[str, Any]) -> DecoderShape:
    if config.get("hidden_act", "silu") not in ("silu", "swish"):
        raise _not_computed(f"hidden_act = {config['hidden_act']!r}")
    width, heads = _whole(config, "hidden_size"), _whole(config, "num_attention_heads")
    biased = family in ("llama", "qwen3") and _flag(config, "attention_bias")
    rope_base, rope_scaling = _read_rope(config)
    return DecoderShape(
        vocab=_whole(config, "vocab_size"),
        context=_whole(config, "max_position_embeddings"),
        layers=_whole(config, "num_hidden_layers"),
        width=width,
        heads=heads,
        kv_heads=heads if config.get("num_key_value_heads") is None else _whole(config, "num_key_value_heads"),
        head_size=width // max(heads, 1) if config.get("head_dim") is None else _whole(config, "head_dim"),
        hidden=_whole(config, "intermediate_size"),
        norm="rms",
        norm_eps=_positive({"rms_norm_eps": 1e-6, **config}, "rms_norm_eps"),
        rope_base=rope_base,
        rope_scaling=rope_scaling,
        qk_norm="rms" if family == "qwen3" else "none",
        activation="swiglu",
        qkv_bias=biased or family == "qwen2",
        out_bias=biased,
        mlp_bias=family == "llama" and _flag(config, "mlp_bias"),
        tied=_flag(config, "tie_word_embeddings"),
        window=_read_window(family, config),
    )


def _read_rope(config: Mapping[str, Any]) -> tuple[float, RopeScaling | None]:
    """Base and scaling, from the keys of transformers 4, of transformers 5, or both where they agree."""
    older, newer = config.get("rope_scaling") or {}, config.get("rope_parameters") or {}
    if not isinstance(older, Mapping) or not isinstance(newer, Mapping):
        raise WeightsInvalid(
            "config.json has rope_scaling or rope_parameters that is no JSON object.",
            fix="Take config.json from the model's source again.",
        )
    bases = [keys["rope_theta"] for keys in (config, older, newer) if keys.get("rope_theta") is not None]
    if any(base != bases[0] for base in bases):
        raise WeightsInvalid(
            f"config.json gives rope_theta more than once: {', '.join(map(str, bases))}.",
            fix="Keep the one that the model was trained with.",
        )
    base = _positive({"rope_theta": bases[0] if bases else 10_000.0}, "rope_theta")
    rope = older or newer  # where both are given transformers takes rope_scaling
    if any(isinstance(value, Mapping) for value in rope.values()):
        raise _not_computed("rotary positions that differ between layers")
    if any(keys.get("partial_rotary_factor") not in (None, 1) for keys in (config, older, newer)):
        raise _not_computed("partial_rotary_factor other than 1")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return base, None
    if kind != "llama3":
        raise _not_computed(f"rotary positions of type {kind!r}")
    original = {"original_max_position_embeddings": config.get("max_position_embeddings"), **rope}
    if config.get("original_max_position_embeddings") is not None:
        original = dict(config)
    scaling = RopeScaling(
        factor=_positive(rope, "factor"),
        low_freq_factor=_positive(rope, "low_freq_factor"),
        high_freq_factor=_positive(rope, "high_freq_factor"),
        original_context=_whole(original, "original_max_position_embeddings"),
    )
    if scaling.high_freq_factor <= scaling.low_freq_factor:
        raise WeightsInvalid(
            f"config.json has high_freq_factor {scaling.high_freq_factor} and "
            f"low_freq_factor {scaling.low_freq_factor}.",
            why="The first must be the larger one: frequencies between the two are blended.",
            fix="Take config.json from the model's source again.",
        )
    return base, scaling


def _read_window(family: str, config: Mapping[str, Any]) -> int:
    """Tokens that every layer sees back, 0 for all; one window for all layers or none."""
    if family == "llama":
        return 0
    given = config["sliding_window"] is not None
    first = 0  # the first layer with a window
    if family != "mistral":
        given = given and _flag(config, "use_sliding_window")
        first = _whole(config, "max_window_layers") if given else 0
    layers = _whole(config, "num_hidden_layers")
    by_count = ["sliding_attention" if given and i >= first else "full_attention" for i in range(layers)]
    kinds = by_count if config.get("layer_types") is None else config["layer_types"]
    if kinds == ["full_attention"] * layers and not (given and family == "mistral"):
        return 0
    if kinds == ["sliding_attention"] * layers and given:
        return _whole(config, "sliding_window", least=1)
    raise WeightsInvalid(
        f"config.json asks for a sliding window in some of {layers} layers only.",
        why="A decoder here has one window for all of its layers, or none.",
        fix="Use a model whose layers all attend alike.",
    )


def _not_computed(what: str) -> WeightsInvalid:
    return WeightsInvalid(
        f"config.json asks for {what}, which Cerulea does not compute.",
        why="Leaving it out would silently give other numbers.",
        fix="Use a model without it.",
    )


def _whole(config: Mapping[str, Any], key: str, *, least: int = 0) -> int:
    value = config.get(key)
    if type(value) is not int or value < least:
        raise _malformed(config, key, f"a whole number of at least {least}")
    return value


def _positive(config: Mapping[str, Any], key: str) -> float:
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise _malformed(config, key, "a number above 0")
    return float(value)


def _flag(config: Mapping[str, Any], key: str, *, default: bool = False) -> bool:
    value = config.get(key)
    if value is not None and not isinstance(value, bool):
        raise _malformed(config, key, "true or false")
    return default if value is None else value


def _malformed(config: Mapping[str, Any], key: str, expected: str) -> WeightsInvalid:
    what = f"config.json has {key} = {config[key]!r}." if key in config else f"config.json lacks {key}."
    return WeightsInvalid(what, why=f"It must be {expected}.", fix="Take config.json from the model's source again.")
