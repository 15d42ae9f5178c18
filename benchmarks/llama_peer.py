"""llama.cpp's packaged server (llama-cpp-python) beside ours: the same GPT-2, the same clients, in turn.

    python benchmarks/llama_peer.py --gpt2 FOLDER --python PEER/bin/python [--weights bf16|int8] [--rounds N]

PEER is a virtual environment of its own with `llama-cpp-python[server]`, gguf and safetensors, built for this machine
(CMAKE_ARGS=-DGGML_NATIVE=ON). bf16 is compared with f16 there, int8 with q8_0. Both servers stay up; a round asks one
after the other. FOLDER holds the two files of GPT-2's tokenizer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import httpx
import torch
from serving import CLIENTS, TOKENS

from cerulea.core.settings import read_settings
from cerulea.flows.models import import_model
from cerulea.flows.platform import open_platform
from cerulea.nn.decoder import Decoder
from cerulea.nn.shape import GPT2_SIZES, preset_shape
from cerulea.nn.weights import save_decoder
from cerulea.text.tokenizer import gpt2_tokenizer
from tests.running import Up, is_loaded

# Runs in the peer's environment: a Hugging Face folder of GPT-2 to GGUF, by the names that llama.cpp reads.
WRITE = r"""
import json, sys
from pathlib import Path
import gguf, numpy as np
from safetensors.numpy import load_file
folder, out, kind = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
config = json.loads((folder / "config.json").read_text())
tensors = {}
for file in sorted(folder.glob("*.safetensors")):
    tensors.update(load_file(file))
tensors = {name.removeprefix("transformer."): value for name, value in tensors.items()}
writer = gguf.GGUFWriter(out, "gpt2")
writer.add_block_count(config["n_layer"])
writer.add_context_length(config["n_positions"])
writer.add_embedding_length(config["n_embd"])
writer.add_feed_forward_length(4 * config["n_embd"])
writer.add_head_count(config["n_head"])
writer.add_layer_norm_eps(config["layer_norm_epsilon"])
tokenizer = json.loads((folder / "tokenizer.json").read_text())
vocab = {index: token for token, index in tokenizer["model"]["vocab"].items()}
for added in tokenizer.get("added_tokens", []):
    vocab[added["id"]] = added["content"]
writer.add_tokenizer_model("gpt2")
writer.add_tokenizer_pre("gpt-2")
writer.add_token_list([vocab.get(i, f"<unused{i}>") for i in range(config["vocab_size"])])
writer.add_token_types([gguf.TokenType.NORMAL] * config["vocab_size"])
merges = tokenizer["model"]["merges"]
writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
writer.add_bos_token_id(50256)
writer.add_eos_token_id(50256)
def add(name, value):
    matrix = value.ndim == 2 and "position" not in name
    if matrix and kind == "q8_0":
        packed = gguf.quants.quantize(value.astype(np.float32), gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor(name, packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    else:
        writer.add_tensor(name, value.astype(np.float16 if matrix else np.float32))
add("token_embd.weight", tensors["wte.weight"])
add("output.weight", tensors["wte.weight"])
add("position_embd.weight", tensors["wpe.weight"])
for ours, theirs in (("ln_f", "output_norm"),):
    for end in ("weight", "bias"):
        add(f"{theirs}.{end}", tensors[f"{ours}.{end}"])
names = {"ln_1": "attn_norm", "ln_2": "ffn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output",
         "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"}
for layer in range(config["n_layer"]):
    for ours, theirs in names.items():
        for end in ("weight", "bias"):
            value = tensors[f"h.{layer}.{ours}.{end}"]
            value = np.ascontiguousarray(value.T) if value.ndim == 2 else value
            add(f"blk.{layer}.{theirs}.{end}", value)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
"""


WORDS = Path(json.__file__).read_text(encoding="utf-8").split()  # any English will do


@dataclass
class Address:
    """What `client` needs to know of a server."""

    url: str
    key: str = "none"


def client(of: Up | Address) -> httpx.AsyncClient:
    """A client with room for many lines."""
    headers = {"Authorization": f"Bearer {of.key}"}
    return httpx.AsyncClient(base_url=of.url, headers=headers, timeout=300, trust_env=False)


async def written(http: httpx.AsyncClient, words: int, seed: int) -> int:
    """Tokens of one plain completion, as its server counts them. The prompt is text: the peer reads no ids."""
    draw = random.Random(seed)
    prompt = " ".join(draw.choice(WORDS) for _ in range(words))
    body = {"model": "bench", "prompt": prompt, "max_tokens": TOKENS, "temperature": 1.0, "seed": seed}
    answer = await http.post("/v1/completions", json=body)
    if answer.is_error:
        raise SystemExit(f"{answer.status_code}: {answer.text}")
    return int(answer.json()["usage"]["completion_tokens"])


async def rate(up: Up | Address, clients: int) -> float:
    """Tokens a second of so many requests that begin together."""
    async with client(up) as http:
        began = time.perf_counter()
        tokens = await asyncio.gather(*(written(http, 8 if clients == 1 else 40, i) for i in range(clients)))
        return sum(tokens) / (time.perf_counter() - began)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpt2", type=Path, required=True)
    parser.add_argument("--python", type=Path, required=True)
    parser.add_argument("--weights", default="bf16", choices=["bf16", "int8"])
    parser.add_argument("--rounds", type=int, default=3)
    words = parser.parse_args()
    layers, width, heads = GPT2_SIZES["gpt2-124m"]
    shape = preset_shape("gpt2", vocab=50_257, layers=layers, width=width, heads=heads, context=1024)
    with tempfile.TemporaryDirectory() as root:
        home, folder, file = Path(root) / "home", Path(root) / "model", Path(root) / "model.gguf"
        torch.manual_seed(0)
        tokenizer = gpt2_tokenizer(words.gpt2)
        save_decoder(Decoder(shape), folder, end_of_text=tokenizer.end_of_text)
        tokenizer.save(folder)
        kind = "f16" if words.weights == "bf16" else "q8_0"
        subprocess.run([words.python, "-c", WRITE, folder, file, kind], check=True)
        with open_platform(read_settings(home=home)) as platform:
            import_model(platform, folder, "bench")
            platform.registry.alias("bench", "served", 1, "owner")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        asked = ["--model", file, "--model_alias", "bench", "--n_threads", "2", "--n_ctx", "1024", "--port", port]
        environment = {"CERULEA_SERVE_WEIGHTS": words.weights, "OMP_NUM_THREADS": "2", "CERULEA_THREADS": "2"}
        with (
            subprocess.Popen(
                [words.python, "-m", "llama_cpp.server", *map(str, asked), "--verbose", "False"],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            ) as server,
            Up(home, workers=0, environment=environment) as up,
        ):
            try:
                up.wait_for(lambda: is_loaded(up), "the model to be loaded")
                theirs = Address(f"http://127.0.0.1:{port}")
                wait_until_it_answers(theirs.url)
                for clients in (1, CLIENTS):
                    asyncio.run(rate(up, clients))  # not counted
                    asyncio.run(rate(theirs, clients))
                    pairs = [
                        (asyncio.run(rate(up, clients)), asyncio.run(rate(theirs, clients)))
                        for _ in range(words.rounds)
                    ]
                    ours, peer = [a for a, _ in pairs], [b for _, b in pairs]
                    print(
                        f"{words.weights} {clients} clients: ours {median(ours):.1f} ({min(ours):.1f} to "
                        f"{max(ours):.1f}), llama.cpp {kind} {median(peer):.1f} ({min(peer):.1f} to {max(peer):.1f}), "
                        f"ratio {median(a / b for a, b in pairs):.2f}",
                        flush=True,
                    )
            finally:
                server.terminate()


def wait_until_it_answers(url: str, seconds: float = 120.0) -> None:
    """Until the peer lists its models."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if httpx.get(f"{url}/v1/models", trust_env=False).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise SystemExit("llama.cpp's server did not start")


if __name__ == "__main__":
    main()
