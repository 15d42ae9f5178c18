"""A program: lm-eval's client against a server of ours, and its own Hugging Face model on the same items.

python tests/api/lm_eval_judge.py URL KEY MODEL FOLDER     prints one line of JSON: how far apart they are
"""

from __future__ import annotations

import json
import os
import random
import sys

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

WORDS = "the sea was calm and the boat went out to find what lay under the blue water of the bay at night".split()  # noqa: SIM905


def main(url: str, key: str, model: str, folder: str) -> None:
    """Score two hundred items both ways."""
    os.environ["OPENAI_API_KEY"] = key
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    draw = random.Random(1)
    items = []
    for number in range(200):
        context = " ".join(draw.choices(WORDS, k=draw.randrange(1, 60)))
        items.append((context, " " + " ".join(draw.choices(WORDS, k=draw.randrange(1, 6)))))
        if number % 4 == 0:
            items[-1] = ("", items[-1][1].strip())
    requests = [Instance(request_type="loglikelihood", doc={}, arguments=item, idx=i) for i, item in enumerate(items)]
    ours = LocalCompletionsAPI(
        model=model,
        base_url=f"{url}/v1/completions",
        tokenizer_backend="huggingface",
        tokenizer=folder,
        num_concurrent=8,
        batch_size=4,
        max_length=1024,
        max_retries=1,
    ).loglikelihood(requests, disable_tqdm=True)
    theirs = HFLM(pretrained=folder, device="cpu", dtype="float32", batch_size=4, max_length=1024).loglikelihood(
        requests, disable_tqdm=True
    )
    differences = [abs(a[0] - b[0]) for a, b in zip(ours, theirs, strict=True)]
    greedy = sum(bool(a[1]) == bool(b[1]) for a, b in zip(ours, theirs, strict=True))
    print(json.dumps({"items": len(items), "largest_difference": max(differences), "greedy_equal": greedy}))


if __name__ == "__main__":
    main(*sys.argv[1:])
