"""One decoder for every model of the house: exactly GPT-2, Llama- or Qwen-shaped, or the modern preset.

In:      token_BT int64 ids; optionally a Memory of the tokens before them.
Out:     logits_BTV float32, or losses without the logits (`loss`, `nats`).
Kept:    parameters are float32; activations have `compute_dtype`; the shape alone decides what is computed.
Not here: optimizers (`optim`), names of other libraries (`weights`), choosing tokens (`generate`).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cerulea.core.errors import PromptTooLong
from cerulea.nn.attention import Attention, Linear, Memory, rope_tables
from cerulea.nn.loss import logits_of, nats, summed_nats
from cerulea.nn.passes import plain_rms_norm, relu_squared
from cerulea.nn.shape import DecoderShape


class Norm(nn.Module):
    """Layer norm with bias, RMS norm with a weight, or RMS norm with none."""

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.kind, self.eps, self.width = shape.norm, shape.norm_eps, shape.width
        if shape.norm != "plain_rms":
            self.weight = nn.Parameter(torch.ones(shape.width))
        if shape.norm == "layer":
            self.bias = nn.Parameter(torch.zeros(shape.width))

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "layer":
            return F.layer_norm(x, (self.width,), self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)
        if self.kind == "plain_rms":
            return plain_rms_norm(x, self.eps)
        return F.rms_norm(x, (self.width,), self.weight.to(x.dtype), self.eps)


class MLP(nn.Module):
    """Two matrices around an activation; SwiGLU has its gate and its input in one matrix, gate first."""

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.activation = shape.activation
        up = shape.hidden * (2 if shape.activation == "swiglu" else 1)
        self.up = Linear(shape.width, up, bias=shape.mlp_bias)
        self.down = Linear(shape.hidden, shape.width, bias=shape.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        h = self.up(x)
        if self.activation == "swiglu":
            gate, h = h.chunk(2, dim=-1)
            h = F.silu(gate) * h
        elif self.activation == "relu2":
            h = relu_squared(h)
        else:
            h = F.gelu(h, approximate="tanh")
        return self.down(h)  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention and MLP, each read through a norm and added to the stream."""

    def __init__(self, shape: DecoderShape, layer: int) -> None:
        super().__init__()
        self.attention_norm = Norm(shape)
        self.attention = Attention(shape, layer)
        self.mlp_norm = Norm(shape)
        self.mlp = MLP(shape)
        # Dropout acts on what a branch adds, not on attention weights: there it would cost the fast kernel.
        self.dropout = 0.0

    def forward(
        self, x: Tensor, rope: tuple[Tensor, Tensor] | None, value: Tensor | None, memory: Memory | None
    ) -> Tensor:
        x = x + F.dropout(self.attention(self.attention_norm(x), rope, value, memory), self.dropout, self.training)
        return x + F.dropout(self.mlp(self.mlp_norm(x)), self.dropout, self.training)


class Decoder(nn.Module):
    """A decoder-only transformer of the given shape, initialised by its preset's rule.

    Args:
        shape: what fixes the parameters.
        dropout: share of embedding and branch outputs set to zero while training.
    """

    def __init__(self, shape: DecoderShape, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.shape = shape
        self.compute_dtype = torch.float32
        self.embedding = nn.Embedding(shape.vocab, shape.width)
        if not shape.rope_base:
            self.positions = nn.Embedding(shape.context, shape.width)
        self.blocks = nn.ModuleList(Block(shape, i) for i in range(shape.layers))
        self.set_dropout(dropout)
        if shape.residual_scalars:
            self.stream_scale = nn.Parameter(torch.ones(shape.layers))
            self.embedding_scale = nn.Parameter(torch.zeros(shape.layers))
        if shape.value_embeddings:
            kv_width = shape.kv_heads * shape.head_size
            self.value_embeddings = nn.ModuleDict(
                {str(i): nn.Embedding(shape.vocab, kv_width) for i in shape.value_layers}
            )
        self.final_norm = Norm(shape)
        if not shape.tied:
            self.head = Linear(shape.width, shape.vocab, bias=False)
        if shape.rope_base:
            cos, sin = rope_tables(shape)
            self.rope_cos: Tensor
            self.rope_sin: Tensor
            self.register_buffer("rope_cos", cos, persistent=False)
            self.register_buffer("rope_sin", sin, persistent=False)
        self._stream: Callable[[Tensor, Memory | None], Tensor] = self._run_blocks
        initialise(self)

    @property
    def head_weight(self) -> nn.Parameter:
        """The head's weight_VD: its own, or the token embedding's where they are tied."""
        weight = self.embedding.weight if self.shape.tied else self.head.weight
        assert isinstance(weight, nn.Parameter)
        return weight

    def set_dropout(self, share: float) -> None:
        """Use this dropout from now on."""
        self.dropout = share
        for block in self.blocks:
            assert isinstance(block, Block)
            block.dropout = share

    def compile_blocks(self) -> None:
        """Compile the training path; names of parameters do not change and other paths stay as they are."""
        self._stream = torch.compile(self._run_blocks, dynamic=False)

    def forward(self, token_BT: Tensor, memory: Memory | None = None) -> Tensor:
        """Logits_BTV, float32, of the token after each given one.

        Raises:
            PromptTooLong: more tokens than the context, those in the memory included.
        """
        h = self.hidden(token_BT, memory)
        return logits_of(h, self.head_weight.to(h.dtype), self.shape.softcap)

    def hidden(self, token_BT: Tensor, memory: Memory | None = None) -> Tensor:
        """Final hidden states_BTD, after the last norm."""
        tokens = token_BT.shape[1] if memory is None else memory.reach(token_BT.shape[1])
        if tokens > self.shape.context:
            raise PromptTooLong(
                f"{tokens:,} tokens do not fit this model's context of {self.shape.context:,}.",
                fix="Shorten the prompt, or train a model with a longer context (model.context).",
            )
        if memory is None and self.training:
            return self._stream(token_BT, None)
        h = self._run_blocks(token_BT, memory)
        if memory is not None:
            memory.advance(token_BT.shape[1])
        return h

    def loss(self, token_BT: Tensor, target_BT: Tensor) -> Tensor:
        """Summed loss in nats of all targets that are not IGNORE; differentiable."""
        h = self.hidden(token_BT)
        return summed_nats(h.flatten(0, 1), self.head_weight, target_BT.flatten(), self.shape.softcap)

    @torch.no_grad()
    def nats(self, token_BT: Tensor, target_BT: Tensor) -> Tensor:
        """Loss in nats of every target, float32 (B, T), 0 where it is IGNORE."""
        h = self.hidden(token_BT)
        flat = nats(h.flatten(0, 1), self.head_weight.to(h.dtype), target_BT.flatten(), self.shape.softcap)
        return flat.view(target_BT.shape)

    def _run_blocks(self, token_BT: Tensor, memory: Memory | None) -> Tensor:
        shape = self.shape
        places = slice(0, token_BT.shape[1]) if memory is None else memory.places(token_BT.shape[1])
        x = self.embedding(token_BT).to(self.compute_dtype)
        rope = None
        if shape.rope_base:
            rope = (self.rope_cos[places], self.rope_sin[places])
        else:
            x = x + self.positions.weight[places].to(self.compute_dtype)
        x = F.dropout(x, self.dropout, self.training)
        if shape.embedding_norm:
            x = plain_rms_norm(x, shape.norm_eps)
        first = x
        for i, block in enumerate(self.blocks):
            if shape.residual_scalars:
                x = self.stream_scale[i].to(x.dtype) * x + self.embedding_scale[i].to(x.dtype) * first
            value = None
            if i in shape.value_layers:
                value = self.value_embeddings[str(i)](token_BT).to(x.dtype)
                value = value.view(*token_BT.shape, shape.kv_heads, shape.head_size)
            x = block(x, rope, value, memory)
        return self.final_norm(x)  # type: ignore[no-any-return]


@torch.no_grad()
def initialise(decoder: Decoder) -> None:
    """Draw all parameters from torch's global generator, in the order of `named_parameters`.

    gpt2: N(0, 0.02), branch outputs N(0, 0.02 / sqrt(2 layers)), biases 0 (GPT-2 paper, section 2.3).
    others: branch outputs and head start at zero, so that the first loss is ln(vocab); inputs uniform
    with standard deviation width^-0.5; the modern embedding N(0, 0.8) as it is normed (nanochat).
    """
    shape = decoder.shape
    gpt2 = shape.norm == "layer"
    bound = math.sqrt(3.0 / shape.width)
    for name, weight in decoder.named_parameters():
        if name.endswith("bias"):
            weight.zero_()
        elif weight.ndim < 2:
            continue
        elif gpt2:
            branch = name.endswith(("attention.out.weight", "mlp.down.weight"))
            weight.normal_(0.0, 0.02 / math.sqrt(2 * shape.layers) if branch else 0.02)
        elif name.endswith(("attention.out.weight", "mlp.down.weight", "head.weight", "value_gate.weight")):
            weight.zero_()
        elif name.startswith("embedding."):
            weight.normal_(0.0, 0.8 if shape.embedding_norm else 0.02)
        elif name.endswith("mlp.up.weight"):
            weight.uniform_(-0.4 * bound, 0.4 * bound) if shape.embedding_norm else weight.uniform_(-bound, bound)
        else:
            weight.uniform_(-bound, bound)
    if shape.residual_scalars:
        depth = torch.linspace(0.0, 1.0, shape.layers)
        decoder.stream_scale.copy_(1.15 - 0.10 * depth)
        decoder.embedding_scale.copy_(0.20 - 0.15 * depth)
