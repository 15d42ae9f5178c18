"""The story of a language model's run: corpus → tokenizer → shards → steps → the checkpoint that scored best.

In:      a text recipe.
Out:     what `flows.train` needs of a kind (a `flows.story.Story`).
Not here: what every run shares (`flows.train`), the steps themselves (`train.text`).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from cerulea.core.files import read_json
from cerulea.core.settings import Settings
from cerulea.core.values import Checkpoint, Evaluation, Progress, Usage
from cerulea.flows.machine import know_execution
from cerulea.flows.story import Outcome
from cerulea.nn.decoder import Decoder
from cerulea.nn.precision import Execution, Machine, choose_execution, fitting_tokens
from cerulea.text.corpus import Corpus, Split, open_corpus
from cerulea.text.shards import Shards, pack, training_texts
from cerulea.text.tokenizer import Tokenizer, bytes_tokenizer, gpt2_tokenizer, load_tokenizer, train_bpe
from cerulea.train.checkpoint import best_checkpoint, problem_of
from cerulea.train.parallel import Team
from cerulea.train.recipe import TextRecipe
from cerulea.train.text import train_text


class TextStory:
    """One text run."""

    end_reasons: tuple[str, ...] = tuple(TextRecipe.ends)

    def __init__(self, settings: Settings, recipe: TextRecipe) -> None:
        self.settings, self.recipe = settings, recipe
        self.tokenizer: Tokenizer
        self.shards: Shards
        self.team: Team
        self.execution: Execution

    def prepare(self, report: Callable[[str, int, int], None]) -> None:
        """Pack the corpus, or find it packed."""
        self.tokenizer, self.shards = prepare(self.settings, self.recipe, report)

    def begin(self, machine: Machine, device: torch.device, team: Team, checkpoint: Checkpoint | None) -> Execution:
        """How to compute: as the checkpoint did, or as a probe finds best."""
        self.team = team
        self.execution = self._choose(machine, device, checkpoint)
        return self.execution

    @property
    def parameters(self) -> int:
        """Of the decoder."""
        return self.recipe.shape(self.tokenizer.vocab).parameters()

    @property
    def facts(self) -> dict[str, Any]:
        """How much there is to read."""
        return {
            "train_tokens": sum(len(t) for t in self.shards.train),
            "valid_bytes": self.shards.valid_bytes,
        }

    @property
    def record(self) -> dict[str, Any]:
        """What was read."""
        kept = ("corpus", "entries", "documents", "train_tokens", "valid_tokens", "valid_bytes")
        return {"corpus": {k: self.shards.meta[k] for k in kept}, "tokenizer": self.shards.tokenizer}

    def warnings(self) -> list[str]:
        """Contradictions between the recipe and its corpus."""
        return contradictions(self.recipe, self.shards)

    def steps(
        self,
        folder: Path,
        *,
        resume: bool,
        verified: Checkpoint | None,
        should_stop: Callable[[], str],
        began: float,
        say: Callable[[str], None],
    ) -> Iterator[Progress | Evaluation | Checkpoint]:
        """The run."""
        return train_text(
            self.recipe,
            self.shards,
            self.tokenizer,
            folder,
            self.execution,
            resume=resume,
            verified=verified,
            team=self.team,
            should_stop=should_stop,
            began=began,
            say=say,
        )

    def outcome(self, folder: Path, last: Checkpoint) -> Outcome:
        """The best checkpoint, with its score on its card."""
        root = folder / "checkpoints"
        state = read_json(last.folder / "state.json")["run"]
        best = best_checkpoint(root, state["scores"])
        if best is None or problem_of(best):
            best = last.folder
        card = read_json(best / "card.json")
        if card.get("bits_per_byte") is None:
            card["bits_per_byte"] = state["scores"].get(str(int(best.name[5:])))
        return Outcome(
            best=best,
            card=card,
            stop_reason=state["stop_reason"],
            step=state["step"],
            train_s=state["elapsed_s"],
            usage=Usage(trained_tokens=state["tokens"], device_ms=int(1000 * state["elapsed_s"])),
            score={"bits_per_byte": card.get("bits_per_byte"), "loss": card.get("loss")},
        )

    def smaller(self) -> str:
        """Fewer tokens of one forward pass."""
        return f"--set train.micro_batch_tokens={self.execution.micro_batch_tokens // 2}"

    def _choose(self, machine: Machine, device: torch.device, checkpoint: Checkpoint | None) -> Execution:
        """The leader's choice holds for all."""
        keys, context = self.recipe.train, self.recipe.model.context
        shape = self.recipe.shape(self.tokenizer.vocab)
        micro = keys.micro_batch_tokens or fitting_tokens(shape, device, machine.memory_bytes, keys.batch_tokens)
        chosen: list[Execution] = []
        if checkpoint is not None:
            then = read_json(checkpoint.folder / "state.json")["execution"]
            chosen.append(as_it_began(then, machine))
        elif self.team.leads:
            limits = (
                keys.tokens,
                keys.steps * keys.batch_tokens,
                keys.epochs * sum(len(tokens) for tokens in self.shards.train),
            )
            expected_tokens = min((limit for limit in limits if limit), default=0)

            def choose() -> Execution:
                return choose_execution(
                    machine,
                    device,
                    lambda: Decoder(shape).to(device).train(),
                    context,
                    micro,
                    precision=keys.precision,
                    compile_=keys.compile,
                    expected_tokens=expected_tokens,
                    expected_s=60 * keys.minutes,
                )

            what = (machine.device, machine.threads, shape, context, micro, keys.precision, keys.compile)
            chosen.append(know_execution(self.settings, (*what, expected_tokens, keys.minutes), choose))
        shared: Execution = self.team.leaders(chosen[0] if chosen else None)
        return shared


def as_it_began(then: dict[str, Any], machine: Machine) -> Execution:
    """How to go on from a checkpoint: as it was computed, on what there is now."""
    why = "as the run began"
    if (then["device"], then["threads"]) != (machine.device, machine.threads):
        why += f", but on {then['device']} with {then['threads']} threads: last digits will differ"
    peak = machine.peak_flops(then["precision"])
    kept = {"device": machine.device, "threads": machine.threads, "peak_flops": peak, "why": why}
    return Execution(**{**then, **kept})


def prepare(
    settings: Settings, recipe: TextRecipe, report: Callable[[str, int, int], None] = lambda what, done, total: None
) -> tuple[Tokenizer, Shards]:
    """The recipe's tokenizer and packed shards, from CERULEA_HOME where nothing changed since."""
    corpora = [open_corpus(entry, recipe.data.field) for entry in recipe.data.train]
    held_out = [open_corpus(entry, recipe.data.field) for entry in recipe.data.valid]
    split = Split(
        fraction=0.0 if held_out or recipe.data.valid_tail else recipe.data.valid_fraction,
        tail=recipe.data.valid_tail,
    )
    tokenizer = _tokenizer(settings, recipe, corpora, split, held_out, report)
    place = _digest("shards", tokenizer.digest, split, corpora, held_out)
    shards = pack(
        corpora,
        split,
        held_out,
        tokenizer,
        settings.shards / place,
        weights=tuple(recipe.data.weights),
        context=recipe.model.context,
        report=lambda done, total: report("packing", done, total),
    )
    return tokenizer, shards


def _tokenizer(
    settings: Settings,
    recipe: TextRecipe,
    corpora: list[Corpus],
    split: Split,
    held_out: list[Corpus],
    report: Callable[[str, int, int], None],
) -> Tokenizer:
    keys = recipe.tokenizer
    if keys.kind == "bytes":
        return bytes_tokenizer()
    if keys.kind == "gpt2":
        return gpt2_tokenizer(Path(keys.folder).expanduser())
    if keys.kind == "hf":
        return load_tokenizer(Path(keys.folder).expanduser())
    stamps = [c.stamp() for c in (*corpora, *held_out)]
    folder = settings.shards / _digest("tokenizer", keys.vocab, stamps, split, recipe.data.field)
    if (folder / "tokenizer.json").exists():
        return load_tokenizer(folder)
    report("training the tokenizer", 0, 0)
    tokenizer = train_bpe(training_texts(corpora, split, held_out), keys.vocab)
    temporary = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    tokenizer.save(temporary)
    with contextlib.suppress(OSError):  # another process was first with the same tokenizer
        temporary.rename(folder)
    return tokenizer


def _digest(*parts: object) -> str:
    return f"{parts[0]}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}"


def contradictions(recipe: TextRecipe, shards: Shards) -> list[str]:
    """What a person might not have meant, as sentences."""
    found = []
    if (cut := shards.meta["cut_documents"]) and not recipe.data.valid_tail:
        share = f"{recipe.data.valid_fraction:.1%}"
        found.append(f"{cut} documents are too few to choose from: the last {share} of each is held out.")
    return found
