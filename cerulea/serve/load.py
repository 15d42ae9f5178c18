"""Make the engine of a model's folder, as the options say.

In:      Options.
Out:     an engine, ours or vLLM, and what those who talk to it should know.
Not here: what a folder is (`nn.weights`), where it lies (`flows`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast, get_args

import torch

from cerulea.core.errors import Invalid
from cerulea.nn.precision import faster_precision, pick_device, set_threads
from cerulea.nn.weights import load_decoder
from cerulea.serve.engine import Engine
from cerulea.serve.linear import Format
from cerulea.serve.picker import SamplerPicker
from cerulea.serve.plan import Chunk
from cerulea.serve.process import Options, Steps
from cerulea.serve.request import SamplingParams
from cerulea.serve.runner import DecoderRunner
from cerulea.serve.sampler import Row, pick
from cerulea.serve.scheduler import SPARE_ROWS
from cerulea.serve.vllm_engine import VllmEngine
from cerulea.text.tokenizer import load_tokenizer

MOST_WAITING = 1 << 16
VLLM_DTYPES = {"auto": "auto", "fp32": "float32", "bf16": "bfloat16"}


def make_engine(options: Options) -> tuple[Steps, dict[str, Any]]:
    """The engine of a folder.

    Raises:
        Invalid, Failed: it is no model's, is damaged, or cannot be run this way; says why.
    """
    if options.extra.get("engine") == "vllm":
        return _vllm(options)
    set_threads(options.threads)
    device = pick_device(options.device)
    folder = Path(options.folder)
    decoder = load_decoder(folder)
    weights = faster_precision(device) if options.weights == "auto" else options.weights
    if weights not in get_args(Format):
        raise Invalid(f"There is no format {weights!r} of weights.", fix=f"Use {', '.join(get_args(Format))}.")
    rows = options.most_running + options.spare_rows + options.cached_rows
    runner = DecoderRunner(decoder, rows=rows, max_len=options.max_len, weights=cast(Format, weights), device=device)
    # Whatever is made at the first step is made before anybody waits for it.
    runner.run([Chunk(0, 0, (0,))])
    runner.release(0)
    if runner.fused is not None:
        pick(torch.zeros(1, runner.vocab), [Row(SamplingParams(temperature=1.0))])
        # What is left for torch is picking tokens under filters, a few milliseconds for 16 rows: on few cores threads
        # of a second pool would wait for the first's.
        torch.set_num_threads(max(1, torch.get_num_threads() // 4))
    engine = Engine(
        runner,
        SamplerPicker(load_tokenizer(folder), runner.vocab),
        most_running=options.most_running,
        # Who started this process bounds what waits, and refuses it sooner; a batch of prompts may be larger.
        most_waiting=MOST_WAITING,
        most_waiting_tokens=MOST_WAITING * runner.context,
        most_wait_s=options.most_wait_s,
    )
    return engine, {
        "context": runner.context,
        "vocab": runner.vocab,
        "weights": weights,
        "rows": rows,
        "device": device.type,
    }


def _vllm(options: Options) -> tuple[VllmEngine, dict[str, Any]]:
    """The same folder in vLLM, which takes memory, threads and devices as it sees fit."""
    try:
        import vllm
        from vllm.config import StructuredOutputsConfig
    except ImportError as error:
        raise Invalid(
            "CERULEA_SERVE_ENGINE is vllm, and vLLM cannot be imported.",
            why=f"{error}.",
            fix="Install it (pip install vllm; 0.12 or later), or set CERULEA_SERVE_ENGINE to own.",
        ) from error
    if options.weights not in VLLM_DTYPES:
        raise Invalid(f"vLLM has no format {options.weights!r} here.", fix=f"Use {', '.join(VLLM_DTYPES)}.")
    engine = vllm.LLMEngine.from_engine_args(
        vllm.EngineArgs(
            model=options.folder,
            dtype=VLLM_DTYPES[options.weights],
            max_model_len=options.max_len or None,
            max_num_seqs=options.most_running + SPARE_ROWS,
            enable_prefix_caching=True,
            generation_config="vllm",  # nothing but what a request says
            structured_outputs_config=StructuredOutputsConfig(backend="guidance"),  # llguidance, as in `grammar`
            disable_log_stats=True,
        )
    )
    context, vocab = int(engine.model_config.max_model_len), int(engine.model_config.get_vocab_size())
    made = VllmEngine(
        engine,
        context=context,
        vocab=vocab,
        most_running=options.most_running,
        most_waiting=options.most_waiting,
    )
    return made, {
        "context": context,
        "vocab": vocab,
        "weights": options.weights,
        "rows": made.stats.rows,
        "device": "vllm",
    }
