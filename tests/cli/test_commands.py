"""The command line as a person and a program use it: one story, then every way to go wrong."""

from __future__ import annotations

import json
import math
import os
import pty
import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from cerulea.core.errors import NotFound

from ..conftest import ROOT, Cerulea, prose


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Cerulea, list[dict], Path]:
    """A home with one trained model, the lines that training printed, and a text that was not trained on."""
    folder = tmp_path_factory.mktemp("story")
    corpus = folder / "corpus"
    corpus.mkdir()
    for i in range(40):
        (corpus / f"{i:02d}.txt").write_text(prose(i, 300))
    other = folder / "other.txt"
    other.write_text(prose(99, 400))
    recipe = folder / "r.toml"
    recipe.write_text(
        'name = "brook"\n[data]\ntrain = ["missing"]\nvalid_fraction = 0.2\n[tokenizer]\nvocab = 300\n'
        '[model]\npreset = "compat"\nlayers = 2\nwidth = 32\nheads = 2\ncontext = 32\n'
        "[train]\nsteps = 30\nbatch_tokens = 512\neval_steps = 10\ncheckpoint_steps = 10\neval_first = true\n"
    )
    home = Cerulea(folder / "home")
    return home, home.lines("train", recipe, "--data", corpus), other


def test_training_prints_the_agreed_keys(trained: tuple):
    _, lines, _ = trained
    kinds = [line["event"] for line in lines]
    of = {kind: [line for line in lines if line["event"] == kind] for kind in set(kinds)}

    assert kinds[0] == "started" and kinds[-1] == "done"
    assert [p["step"] for p in of["progress"]] == list(range(1, 31))
    assert {"step", "tokens", "loss", "tokens_per_s", "flops_utilization"} <= of["progress"][0].keys()
    assert {"bits_per_byte", "loss", "elapsed_s"} <= of["eval"][0].keys()
    assert [e["step"] for e in of["eval"]] == [0, 10, 20, 30]
    assert [c["step"] for c in of["checkpoint"]] == [10, 20, 30]
    assert re.fullmatch("[0-9a-f]{64}", of["checkpoint"][0]["digest"])
    done = lines[-1]
    assert {"model", "version", "stop_reason", "train_s", "bits_per_byte", "cost"} <= done.keys()
    assert (done["model"], done["version"], done["stop_reason"]) == ("brook", 1, "steps")
    assert done["bits_per_byte"] == min(e["bits_per_byte"] for e in of["eval"][1:])


def test_a_model_is_listed_shown_sampled_and_scored(trained: tuple):
    home, lines, other = trained

    (listed,) = home.lines("models")
    assert (listed["model"], listed["version"], listed["preset"]) == ("brook", 1, "compat")
    (known,) = home.lines("show", "brook")
    assert known["run"]["stop_reason"] == "steps"
    assert known["run"]["packages"]["torch"].startswith("2.13")
    assert known["card"]["bits_per_byte"] == lines[-1]["bits_per_byte"]
    first, second = home.lines("sample", "brook@1", "--prompt", "the sea", "--n", 2, "--max-tokens", 12)
    assert first["token_ids"] != second["token_ids"]
    assert first["completion_tokens"] == len(first["token_ids"]) <= 12
    assert home.lines("sample", "brook", "--prompt", "the sea", "--n", 2, "--max-tokens", 12)[0] == first
    (score,) = home.lines("eval", "brook", "--data", other)
    assert score["bytes"] == other.stat().st_size
    assert score["perplexity"] == pytest.approx(math.exp(score["loss"]))
    assert score["bits_per_byte"] == pytest.approx(score["loss"] * score["tokens"] / math.log(2) / score["bytes"])
    (closer,) = home.lines("eval", "brook", "--data", other, "--stride", 8)
    assert closer["tokens"] == score["tokens"]


def test_the_words_for_people_say_the_same(trained: tuple):
    home, lines, other = trained
    bits = f"{lines[-1]['bits_per_byte']:.4f}"

    assert bits in home.run("models").stdout
    assert bits in home.run("show", "brook").stdout
    assert "bits per byte, perplexity" in home.run("eval", "brook", "--data", other).stdout
    assert "Nothing to score" in home.run("eval", "brook", code=2).stderr  # a text model plays nothing
    assert home.run("sample", "brook", "--prompt", "-", input="the boat").stdout.startswith("the boat")
    assert "matrix products" in home.run("doctor").stdout


def test_an_exported_model_loads_in_transformers_and_comes_back(trained: tuple, tmp_path: Path):
    """Judge: transformers, with the same loss on the same text; the tokenizer too."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    home, _, other = trained
    home.run("export", "brook", tmp_path / "out")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    text = other.read_text()[:120]
    ids = tokenizer(text, return_tensors="pt").input_ids
    home.run("import", tmp_path / "out", "--name", "back")

    path = tmp_path / "short.txt"
    path.write_text(text)
    (score,) = home.lines("eval", "back", "--data", path, "--json")
    end = torch.tensor([[theirs.config.eos_token_id]])
    with torch.no_grad():
        logits = theirs(torch.cat((end, ids), dim=1)[:, :32]).logits[0, :-1]
    loss = torch.nn.functional.cross_entropy(logits, ids[0, :31])
    if ids.shape[1] <= 32:
        assert score["loss"] == pytest.approx(float(loss), abs=1e-4)
    sampled = [home.lines("sample", name, "--temperature", 0, "--max-tokens", 8)[0] for name in ("brook", "back")]
    assert sampled[0]["token_ids"] == sampled[1]["token_ids"]


def test_an_imported_model_keeps_the_score_of_its_card(trained: tuple, tmp_path: Path):
    """A card of another model, or of another program, says nothing."""
    home, lines, _ = trained
    home.run("export", "brook", tmp_path / "out")
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    for name, text in (
        ("scored", json.dumps(card)),
        ("strange", json.dumps({**card, "parameters": card["parameters"] + 1})),
        ("foreign", "[1, 2]"),
    ):
        (tmp_path / "out" / "card.json").write_text(text)
        home.run("import", tmp_path / "out", "--name", name)

    known = {m["model"]: m for m in home.lines("models")}

    assert known["scored"]["bits_per_byte"] == lines[-1]["bits_per_byte"]
    assert known["scored"]["trained_tokens"] == 30 * 512
    assert known["strange"]["bits_per_byte"] is None and known["foreign"]["bits_per_byte"] is None


def test_tensorboard_reads_what_is_exported(trained: tuple, tmp_path: Path):
    """Judge: TensorBoard's own reader."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    home, lines, _ = trained
    run = lines[0]["run"]
    (done,) = home.lines("tensorboard", run, tmp_path / "board")

    events = EventAccumulator(str(tmp_path / "board"))
    events.Reload()

    assert done["points"] > 100
    losses = events.Scalars("train/loss")
    assert [e.step for e in losses] == list(range(1, 31))
    assert losses[0].value == pytest.approx(next(x["loss"] for x in lines if x["event"] == "progress"), rel=1e-6)


def test_a_run_leaves_its_whole_record(trained: tuple):
    _home, lines, _ = trained
    folder = Path(lines[0]["folder"])

    record = json.loads((folder / "run.json").read_text())

    for key in ("recipe", "recipe_digest", "corpus", "tokenizer", "execution", "code", "packages", "python", "machine"):
        assert record[key], key
    assert record["resumes"] == [] and record["finished"]
    assert record["usage"]["trained_tokens"] == 30 * 512


def test_a_finished_run_is_not_resumed_by_mistake(trained: tuple):
    home, _lines, _ = trained
    recipe = home.home.parent / "r.toml"

    error = home.run("train", recipe, "--data", home.home.parent / "corpus", "--resume", code=5).stderr

    assert "is finished: steps" in error and "--set train.steps=N with N above 30" in error

    another = home.run(
        "train", recipe, "--data", home.home.parent / "corpus", "--resume", "--set", "train.minutes=99", code=5
    )
    assert "is finished: steps" in another.stderr, "what ended it is what it was"


def test_help_imports_nothing_heavy():
    """Neither torch nor numpy: help answers at once."""
    program = "import sys; import cerulea.cli.main; print([m for m in ('torch', 'numpy', 'rich') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_help_is_no_failure(cerulea: Cerulea):
    """`cerulea` alone and -h print what --help prints."""
    assert cerulea.run().stdout.strip() == cerulea.run("--help").stdout.strip() == cerulea.run("-h").stdout.strip()
    assert cerulea.run("train", "-h").stdout == cerulea.run("train", "--help").stdout
    assert cerulea.run("train", "-h").stdout.startswith("Usage: cerulea train ")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["train", "none.toml"], 2, "E-NAME-001: There is no recipe none.toml"),
        (["train", "tiny", "--set", "train.step=5"], 2, "--set train.step=5 has an unknown key"),
        (["train", "tiny", "--set", "train.step=5"], 2, "The nearest known key is 'train.steps'"),
        (["train", "tiny", "--set", "model=5"], 2, "[model] in --set model=5 is 5, not a table"),
        (["train", "tiny", "--set", "train.steps=many"], 2, "It must be a whole number"),
        (["train", "tiny", "--set", "model.heads=5"], 2, "E-SHAPE-001"),
        (["train", "tiny", "--data", "no-such-folder"], 2, "E-CORPUS-001"),
        (["train", "tiny", "--resume"], 2, "There is no run of 'tiny' to resume"),
        (["train", "tiny", "--processes", "0"], 2, "--processes is 0"),
        (["sample", "none"], 2, "There is no model 'none'"),
        (["eval", "none"], 2, "There is no model 'none'"),
        (["eval", "none", "--exploit", "--data", "x.txt"], 2, "--exploit is for agents that play"),
        (["show", "none"], 2, "There is no model 'none'"),
        (["import", "none", "--name", "x"], 2, "There is no model in none"),
        (["export", "none", "out"], 2, "There is no model 'none'"),
        (["tensorboard", "none", "out"], 2, "There is no run 'none'"),
        (["trian"], 2, "No such command"),
        (["train", str(ROOT / "recipes")], 2, "There is no recipe"),
        (["train", "tiny", "--set", "model.context=0"], 2, "model.context is 0"),
        (["train", "tiny", "--set", "train.beta2=1.5"], 2, "train.beta2 is 1.5"),
        (["doctor", "--home", "/proc/none"], 1, "E-FILE-001"),
        (["sample", "x", "--top-p", "2"], 2, "top_p: Input should be less than or equal to 1"),
        (["sample"], 2, "See: cerulea sample --help"),
        (["train"], 2, "Missing argument 'RECIPE'.\n  See: cerulea train --help"),
        (["models", "--bogus"], 2, "See: cerulea models --help"),
    ],
)
def test_what_is_wrong_is_said_with_a_code_and_a_way_out(words: list, code: int, message: str, cerulea: Cerulea):
    recipe = str(ROOT / "recipes" / "tiny.toml")

    done = cerulea.run(*[recipe if w == "tiny" else w for w in words], code=code)

    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) >= 2, "an error says what to type next"


def test_an_error_is_json_too(cerulea: Cerulea):
    (line,) = cerulea.lines("sample", "none", code=2)

    assert (line["event"], line["code"]) == ("error", "E-NAME-001")


def test_a_prompt_longer_than_the_context_is_refused(trained: tuple):
    home, _, _ = trained

    error = home.run("sample", "brook", "--prompt", "boat " * 100, code=2).stderr

    assert "E-PROMPT-001" in error and "maximum context length is 32" in error


def test_chat_greets_once_the_model_is_there(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    from cerulea.cli import chat as story

    class Nobody:
        write = property(lambda self: self)

        def open(self, model: str) -> None:
            raise NotFound(f"There is no model {model!r}.")

    monkeypatch.setattr(story, "client_of", lambda *given: nullcontext(Nobody()))
    monkeypatch.setattr(story.sys, "stdin", SimpleNamespace(isatty=lambda: True))
    Nobody.on_loading = None

    with pytest.raises(NotFound):
        story.chat(None, "none", system="", max_tokens=8, temperature=0.0)  # type: ignore[arg-type]
    assert capsys.readouterr().out == ""


def test_a_text_that_is_cut_at_the_context_says_so(trained: tuple):
    home, _, _ = trained
    words = ("sample", "brook", "--prompt", "the sea", "--temperature", 0)

    cut, whole = home.run(*words, "--max-tokens", 5000), home.run(*words, "--max-tokens", 2)
    (line,), (short,) = home.lines(*words, "--max-tokens", 5000), home.lines(*words, "--max-tokens", 2)

    assert "where the model's context does, before 5,000 tokens" in cut.stderr and "context" not in whole.stderr
    assert (line["finish_reason"], line["stop_detail"]) == ("length", "context")
    assert line["prompt_tokens"] + line["completion_tokens"] == 32
    assert short["finish_reason"] == "length" and "stop_detail" not in short


def test_what_the_server_refuses_points_to_the_command(trained: tuple):
    home, _, _ = trained

    error = home.run("sample", "brook", "--top-p", 2, code=2).stderr

    assert "See: cerulea sample --help" in error and "openapi" not in error


def test_a_folder_that_cannot_be_a_model_is_refused(trained: tuple, tmp_path: Path):
    home, _, _ = trained
    home.run("export", "brook", tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps({**config, "model_type": "mamba"}))
    assert "E-WEIGHTS-001" in home.run("import", tmp_path / "m", "--name", "x", code=2).stderr

    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    (tmp_path / "m" / "model.safetensors").rename(tmp_path / "m" / "pytorch_model.bin")
    assert "E-WEIGHTS-003" in home.run("import", tmp_path / "m", "--name", "x", code=2).stderr
    pickle = tmp_path / "m" / "pytorch_model.bin"
    assert "E-WEIGHTS-003" in home.run("import", pickle, "--name", "x", code=2).stderr
    assert [m["model"] for m in home.lines("models") if m["model"] == "x"] == []


def test_an_export_never_overwrites(trained: tuple, tmp_path: Path):
    home, _, _ = trained
    (tmp_path / "there.txt").write_text("mine")

    error = home.run("export", "brook", tmp_path, code=5).stderr
    assert "E-CONFLICT-001" in error and "An export never overwrites" in error


def test_a_modern_model_is_exported_in_our_own_form_alone(cerulea: Cerulea, tiny_recipe: Path, tmp_path: Path):
    cerulea.run("train", tiny_recipe, "--set", "train.steps=2")

    assert "no Hugging Face class" in cerulea.run("export", "tiny", tmp_path / "a", code=2).stderr
    cerulea.run("export", "tiny", tmp_path / "b", "--format", "cerulea")
    assert cerulea.lines("sample", tmp_path / "b", "--max-tokens", 4)[0]["completion_tokens"] <= 4


def test_on_a_terminal_training_is_shown_live(cerulea: Cerulea, tiny_recipe: Path):
    """A real pseudo-terminal: the panel is drawn, the curve, the score, and the next command at the end."""
    parent, child = pty.openpty()
    words = [sys.executable, "-m", "cerulea.cli.main", "train", str(tiny_recipe), "--set", "train.steps=40"]
    process = subprocess.Popen(
        words, stdin=child, stdout=child, stderr=child, env={**cerulea.environment, "TERM": "xterm", "COLUMNS": "100"}
    )
    os.close(child)
    shown = b""
    while True:
        try:
            piece = os.read(parent, 65536)
        except OSError:
            break
        if not piece:
            break
        shown += piece
    os.close(parent)
    text = shown.decode(errors="replace")

    assert process.wait() == 0, text[-2000:]
    assert "nats per token" in text and "of this machine's measured peak" in text
    assert "held out" in text and "bits per byte" in text
    assert "▁" in text
    assert "next:" in text and "sample tiny" in text


def test_the_whole_path_opens_no_socket(cerulea: Cerulea, tiny_recipe: Path):
    """Train and sample with every connection refused."""
    program = (
        "import socket, sys\n"
        "def refuse(*a, **k): raise AssertionError('a socket was opened')\n"
        "socket.socket.connect = refuse\n"
        "from cerulea.cli import main\n"
        "main.run()\n"
    )
    for words in (["train", str(tiny_recipe), "--set", "train.steps=2"], ["sample", "tiny", "--max-tokens", "4"]):
        done = subprocess.run(
            [sys.executable, "-c", program, *words], env=cerulea.environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
