"""What fixes a decoder's parameters: one frozen shape, and the presets that make one.

In:      a preset with sizes (from a recipe), or a family's config (from `weights`).
Out:     DecoderShape, and from it the exact number of parameters.
Kept:    a shape that exists can be built; contradictions are refused here, before any tensor is made.
Not here: torch (`decoder`), floating-point operations (`flops`), Hugging Face names (`weights`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from cerulea.core.errors import RecipeInvalid, ShapeInvalid

Norm = Literal["layer", "rms", "plain_rms"]
Activation = Literal["gelu_tanh", "swiglu", "relu2"]

GATE_CHANNELS = 32  # leading channels that a value embedding's gate looks at

# OpenAI's four sizes: layers, width, heads. Context 1,024 and vocabulary 50,257 for all.
GPT2_SIZES = {
    "gpt2-124m": (12, 768, 12),
    "gpt2-355m": (24, 1024, 16),
    "gpt2-774m": (36, 1280, 20),
    "gpt2-1558m": (48, 1600, 25),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeScaling:
    """Llama 3's stretching of rotary frequencies beyond the context of pre-training."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int  # tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderShape:
    """All that decides which parameters a decoder has and what it computes with them."""

    vocab: int  # rows of the token embedding
    context: int  # longest sequence, tokens
    layers: int
    width: int  # channels of the residual stream
    heads: int  # query heads
    kv_heads: int  # key and value heads, a divisor of `heads`
    head_size: int  # channels of one head
    hidden: int  # channels inside the MLP
    norm: Norm = "rms"  # plain_rms has no weights
    norm_eps: float = 1e-6
    rope_base: float = 10_000.0  # 0 means learned positions
    rope_scaling: RopeScaling | None = None
    qk_norm: Literal["none", "rms", "plain_rms"] = "none"
    activation: Activation = "swiglu"
    qkv_bias: bool = False
    out_bias: bool = False  # of the attention's output projection
    mlp_bias: bool = False
    tied: bool = True  # the head is the token embedding
    softcap: float = 0.0  # logits are softcap * tanh(logits / softcap); 0 leaves them
    window: int = 0  # tokens that a query sees back, itself included; 0 means all
    embedding_norm: bool = False  # plain RMS norm right after the embedding
    residual_scalars: bool = False  # learned weights of the stream and of the embedding before each block
    value_embeddings: bool = False  # a second embedding, added to the values of every other layer

    def __post_init__(self) -> None:
        for name in ("vocab", "context", "layers", "width", "heads", "kv_heads", "head_size", "hidden"):
            if getattr(self, name) < 1:
                raise ShapeInvalid(f"{name} is {getattr(self, name)}.", fix="Use a whole number of at least 1.")
        if self.heads % self.kv_heads:
            raise ShapeInvalid(
                f"{self.heads} heads cannot share {self.kv_heads} key-value heads.",
                why="Each key-value head serves the same number of query heads.",
                fix=f"Use a divisor of {self.heads} for kv_heads.",
            )
        if self.rope_base and self.head_size % 2:
            raise ShapeInvalid(
                f"A head has {self.head_size} channels.",
                why="Rotary positions turn pairs of channels.",
                fix="Choose width and heads so that width / heads is even.",
            )

    @property
    def value_layers(self) -> tuple[int, ...]:
        """Layers whose values get a value embedding: every other one, the last among them."""
        if not self.value_embeddings:
            return ()
        return tuple(i for i in range(self.layers) if i % 2 == (self.layers - 1) % 2)

    def matrix_parameters(self) -> int:
        """Weights that every token is multiplied with, the head included, lookups not."""
        kv_width = self.kv_heads * self.head_size
        attention = self.width * (self.heads * self.head_size + 2 * kv_width) + self.heads * self.head_size * self.width
        gate = min(GATE_CHANNELS, self.width) * self.kv_heads * len(self.value_layers)
        mlp = self.width * self.hidden * (3 if self.activation == "swiglu" else 2)
        return self.layers * (attention + mlp) + gate + self.vocab * self.width

    def parameters(self) -> int:
        """Exact number of parameters; a tied head counts once."""
        kv_width = self.kv_heads * self.head_size
        norm = {"layer": 2, "rms": 1, "plain_rms": 0}[self.norm] * self.width
        qkv = self.heads * self.head_size + 2 * kv_width
        up = self.hidden * (2 if self.activation == "swiglu" else 1)
        biases = qkv * self.qkv_bias + self.width * self.out_bias + (up + self.width) * self.mlp_bias
        block = 2 * norm + biases + (2 * self.head_size if self.qk_norm == "rms" else 0)
        total = self.matrix_parameters() + self.layers * block + norm
        total += self.vocab * kv_width * len(self.value_layers)
        total += 2 * self.layers if self.residual_scalars else 0
        total += 0 if self.rope_base else self.context * self.width
        return total if self.tied else total + self.vocab * self.width

    def as_json(self) -> dict[str, Any]:
        """Plain values, read back by `shape_from_json`."""
        return asdict(self)


def shape_from_json(values: dict[str, Any]) -> DecoderShape:
    """The shape that `as_json` wrote."""
    scaling = values.get("rope_scaling")
    return DecoderShape(**{**values, "rope_scaling": RopeScaling(**scaling) if scaling else None})


def preset_shape(
    preset: str,
    *,
    vocab: int,
    layers: int,
    width: int,
    heads: int,
    context: int,
    kv_heads: int | None = None,
    hidden: int | None = None,
) -> DecoderShape:
    """The shape of a preset at the given sizes.

    Args:
        preset: `gpt2` (exactly GPT-2), `compat` (Qwen3-shaped; Hugging Face and others can load it)
            or `modern` (what won in both nanochat and modded-nanogpt; fastest to a loss).
        hidden: channels inside the MLP; by default 4 x width, for SwiGLU 8/3 x width up to a multiple of 64.

    Raises:
        RecipeInvalid: an unknown preset.
        ShapeInvalid: sizes that contradict one another.
    """
    if heads < 1 or width % heads:
        raise ShapeInvalid(
            f"A width of {width} cannot be divided among {heads} heads.",
            why="Every head gets the same number of channels.",
            fix=f"Set model.width to a multiple of {max(heads, 1)}, or model.heads to a divisor of {width}.",
        )
    sizes: dict[str, Any] = {
        "vocab": vocab,
        "context": context,
        "layers": layers,
        "width": width,
        "heads": heads,
        "kv_heads": kv_heads or heads,
        "head_size": width // heads,
        "hidden": hidden or 4 * width,
    }
    if preset == "gpt2":
        if kv_heads not in (None, heads):
            raise ShapeInvalid(
                "GPT-2 has no shared key-value heads.", fix="Remove model.kv_heads or use another preset."
            )
        return DecoderShape(
            **sizes,
            norm="layer",
            norm_eps=1e-5,
            rope_base=0.0,
            activation="gelu_tanh",
            qkv_bias=True,
            out_bias=True,
            mlp_bias=True,
        )
    if preset == "compat":
        sizes["hidden"] = hidden or -(-8 * width // 3 // 64) * 64
        return DecoderShape(**sizes, norm="rms", qk_norm="rms", activation="swiglu", tied=False)
    if preset == "modern":
        return DecoderShape(
            **sizes,
            norm="plain_rms",
            qk_norm="plain_rms",
            activation="relu2",
            tied=False,
            softcap=15.0,
            embedding_norm=True,
            residual_scalars=True,
            value_embeddings=True,
        )
    raise RecipeInvalid(f"There is no preset {preset!r}.", fix="Use gpt2, compat or modern.")
