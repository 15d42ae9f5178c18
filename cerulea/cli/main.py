"""The `cerulea` command: words in, one call of `flows`, lines out. No logic of its own.

Heavy modules are imported inside commands, so that help answers at once. Errors become exit codes here, once.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from cerulea import __version__
from cerulea.cli import chat, jobs, models, people, playing, up, usage
from cerulea.cli import fund as money
from cerulea.cli.chat import LOADING
from cerulea.cli.lines import put, tell_loading, tell_waiting, telling, waiting
from cerulea.cli.options import Home, Json, ModelName, OwnGame, settings_of
from cerulea.cli.reach import Url, client_of
from cerulea.core.errors import CeruleaError, CommandInvalid, FileTrouble, Invalid

if TYPE_CHECKING:
    from cerulea.flows.platform import Platform

BEGAN = time.monotonic()  # of the command: `elapsed_s` counts from here

app = typer.Typer(
    name="cerulea",
    help="Train and run AI models on your own machines.",
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.command()(up.up)
app.command()(up.worker)
app.command()(chat.chat)
for story in (*jobs.COMMANDS, *models.COMMANDS, *playing.COMMANDS, usage.usage):
    app.command()(story)
for word, part in (("fund", money.app), ("team", people.teams), ("person", people.persons), ("key", people.keys)):
    app.add_typer(part, name=word)


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    home: Home = None,
    version: Annotated[bool, Option("--version", help="Print the version.")] = False,
) -> None:
    """Train and run AI models on your own machines."""
    context.obj = home
    if version:
        print(f"cerulea {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())


def platform_of(context: typer.Context, home: Path | None) -> AbstractContextManager[Platform]:
    """The platform in CERULEA_HOME, opened for one command."""
    from cerulea.flows.platform import open_platform

    return open_platform(settings_of(context, home))


@app.command()
def doctor(
    context: typer.Context,
    again: Annotated[bool, Option("--again", help="Measure anew instead of showing what was measured before.")] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """What this machine can do, measured once and kept."""
    from cerulea.cli.tables import show_machine
    from cerulea.flows.machine import know_machine

    machine, _ = know_machine(settings_of(context, home), again=again)
    put(machine.as_json()) if as_json else show_machine(machine.as_json())


@app.command()
def train(
    context: typer.Context,
    recipe: Annotated[Path, Argument(metavar="RECIPE", help="A TOML recipe; recipes/ holds some.")],
    data: Annotated[
        list[str] | None, Option(help="Files, folders or globs instead of the recipe's data.train.")
    ] = None,
    set_: Annotated[list[str] | None, Option("--set", help="Change one key: --set train.steps=100.")] = None,
    name: Annotated[str | None, Option(help="The model's name instead of the recipe's.")] = None,
    fund: Annotated[str | None, Option(help="The fund that pays; the one of this home by default.")] = None,
    resume: Annotated[bool, Option("--resume", help="Go on with the newest unfinished run of this name.")] = False,
    processes: Annotated[
        str, Option(metavar="N", help="Processes that train together on this machine; `auto` is 1, or 2 for self-play.")
    ] = "auto",
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Train a model from a recipe."""
    from cerulea.cli.view import view_of
    from cerulea.flows.launch import processes_of, together
    from cerulea.train.recipe import read_recipe

    settings = settings_of(context, home)
    changes = [*(set_ or []), *([f'name="{name}"'] if name else [])]
    plan = read_recipe(recipe, changes=changes, data=data)
    count = processes_of(settings, plan, processes, resume=resume)
    with together(count) as leads, view_of(plan.kind, as_json=as_json, quiet=not leads) as view:
        from cerulea.flows.here import train_here

        for event in train_here(
            settings, plan, fund=fund, resume=resume, processes=count, began=BEGAN, report=view.report
        ):
            view.handle(event)


@app.command("eval")
def evaluate(
    context: typer.Context,
    model: ModelName,
    data: Annotated[list[str] | None, Option(help="Files to score; with --suite folders or NAME=PATH.")] = None,
    suite: Annotated[str | None, Option(help="gpt2-table3, hellaswag, lambada or wikitext2.")] = None,
    field: Annotated[str, Option(help="Text field of .jsonl and .parquet files.")] = "text",
    stride: Annotated[int | None, Option(help="Tokens newly scored per window; the context by default.")] = None,
    limit: Annotated[int | None, Option(help="Only the first examples of each task.")] = None,
    n: Annotated[int, Option(help="Of an agent: matches against each opponent.")] = 100,
    seed: Annotated[int, Option(help="Of an agent: decides the matches.")] = 1,
    exploit: Annotated[bool, Option("--exploit", help="Of an agent: train an exploiter against it, and tell.")] = False,
    game: OwnGame = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Score files in bits per byte and perplexity, or run a suite; let an agent play bots and its own past."""
    from cerulea.cli.tables import show_judged, show_score, show_tasks
    from cerulea.flows.model_folders import find_model
    from cerulea.flows.show import evaluate_files, evaluate_suite

    if exploit and (suite or data):
        raise CommandInvalid("--exploit is for agents that play; they read no texts.", fix="Leave out --data, --suite.")
    if suite:
        with platform_of(context, home) as platform:
            tasks = evaluate_suite(platform, model, suite, data or [], limit=limit, stride=stride)
        put({"model": model, "suite": suite, "tasks": tasks}) if as_json else show_tasks(suite, tasks)
        return
    if not data:
        with platform_of(context, home) as platform:
            if (found := find_model(platform, model)).plays:
                from cerulea.flows.judging import evaluate_agent
                from cerulea.flows.ready import compiling

                tell_waiting(compiling(str(found.card().get("preset")), scripted=True))
                with waiting(f"{model} plays") as status:
                    report = telling(status, model)
                    judged = evaluate_agent(platform, model, n=n, seed=seed, exploit=exploit, game=game, report=report)
                put(judged) if as_json else show_judged(judged)
                return
        raise Invalid("Nothing to score.", fix="Name files (--data FILE) or a suite (--suite hellaswag --data FILE).")
    with platform_of(context, home) as platform:
        score = evaluate_files(platform, model, data, field=field, stride=stride)
    values = {
        "model": model,
        "loss": score.loss,
        "perplexity": score.perplexity,
        "bits_per_byte": score.bits_per_byte,
        "tokens": score.tokens,
        "bytes": score.bytes,
    }
    put(values) if as_json else show_score(values)


@app.command()
def sample(
    context: typer.Context,
    model: ModelName,
    prompt: Annotated[str, Option(help="Text to continue; - reads standard input.")] = "",
    max_tokens: Annotated[int, Option(help="Most tokens to write.")] = 128,
    temperature: Annotated[float, Option(help="0 picks the likeliest token.")] = 0.8,
    top_k: Annotated[int, Option(help="Only the k likeliest tokens; 0 means all.")] = 0,
    top_p: Annotated[float, Option(help="Only the likeliest tokens that together reach this probability.")] = 1.0,
    seed: Annotated[int, Option(help="The same seed writes the same text.")] = 1,
    n: Annotated[int, Option(help="Number of texts.")] = 1,
    home: Home = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Let a model write."""
    from cerulea.cli.tables import show_text

    text = sys.stdin.read() if prompt == "-" else prompt
    how = {"max_tokens": max_tokens, "temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed, "n": n}
    with client_of(context, home, url) as client, waiting(f"{model} {LOADING}, and writes"):
        client.write.on_loading = tell_loading
        written = client.write.texts(model, text, add_special_tokens=True, fit_context=True, **how)
    for i, one in enumerate(written):
        if as_json:
            ids = list(one.token_ids)
            counts = {"prompt_tokens": one.prompt_tokens, "completion_tokens": len(ids)}
            ending = {"finish_reason": one.finish, **({"stop_detail": one.detail} if one.detail else {})}
            put({"text": one.text, **counts, "token_ids": ids, **ending})
        else:
            show_text(i, n, text, one.text)
    for detail, where in (("context", "the model's context does"), ("budget", "the money does")):
        if (cut := sum(one.detail == detail for one in written)) and len(written[0].token_ids) < max_tokens:
            which = "The text ends" if n == 1 else f"{cut} of {n} texts end"
            print(f"{which} where {where}, before {max_tokens:,} tokens.", file=sys.stderr)


@app.command("import")
def import_(
    context: typer.Context,
    folder: Annotated[
        Path, Argument(metavar="DIR", help="A Hugging Face folder: GPT-2, Llama, Mistral, Qwen2, Qwen3.")
    ],
    name: Annotated[str, Option(help="The name it gets.")],
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Read a Hugging Face folder and keep it as a model."""
    from cerulea.flows.models import import_model

    with platform_of(context, home) as platform:
        model = import_model(platform, folder, name)
    card = model.card()
    values = {"model": model.name, "version": model.version, "parameters": card["parameters"], "family": card["preset"]}
    put(values) if as_json else print(f"{model.label}: {card['parameters']:,} parameters, {card['preset']}")


@app.command()
def export(
    context: typer.Context,
    model: ModelName,
    folder: Annotated[Path, Argument(metavar="DIR", help="A new folder.")],
    format_: Annotated[
        str | None,
        Option("--format", help="hf, cerulea, or for an agent onnx; by default hf, and cerulea for an agent."),
    ] = None,
    game: OwnGame = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Write a model to a folder that transformers (hf), another Cerulea or onnxruntime (onnx) can load."""
    if format_ == "onnx":
        from cerulea.flows.ready import check_onnx

        check_onnx()  # torch alone takes seconds to load
    from cerulea.flows.models import export_model

    with platform_of(context, home) as platform:
        family = export_model(platform, model, folder, format_, game=game)
    put({"model": model, "folder": str(folder), "family": family}) if as_json else print(
        f"{folder}: {model} as {family}"
    )


@app.command()
def tensorboard(
    context: typer.Context,
    run: Annotated[str, Argument(metavar="RUN", help="A run, or a model for the run that made it.")],
    folder: Annotated[Path, Argument(metavar="DIR", help="Folder for the event files.")],
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Write a run's metrics as TensorBoard event files."""
    from cerulea.flows.show import export_tensorboard

    with platform_of(context, home) as platform:
        points = export_tensorboard(platform, run, folder, lambda text: None if as_json else print(text))
    if as_json:
        put({"run": run, "folder": str(folder), "points": points})


def run() -> None:
    """Entry point: the command, with every CeruleaError as a message and an exit code."""
    as_json = "--json" in sys.argv
    try:
        # typer answers Ctrl-C with a code of its own, which it returns here.
        code = app(prog_name="cerulea", standalone_mode=False)
        if isinstance(code, int) and code:
            raise SystemExit(code)
    except CeruleaError as error:
        _refuse(error, as_json)
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:
        # Whoever read our output has gone; there is nobody left to tell.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123
        raise SystemExit(1) from None
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        _refuse(
            FileTrouble(
                f"{error.strerror or error}{where}.",
                fix="Check the path, its permissions and the free space; --home chooses another folder.",
            ),
            as_json,
        )
    except UnicodeDecodeError as error:
        _refuse(Invalid(f"The input is not UTF-8: {error}.", fix="Convert it first, for example with iconv."), as_json)
    except Exception as error:
        exit_code = getattr(error, "exit_code", None)
        if exit_code is None or not hasattr(error, "format_message"):
            raise
        context = getattr(error, "ctx", None)  # of the command that was being read
        words = context.command_path if context else "cerulea"
        fix = _meant(sys.argv[1:]) or f"See: {words} --help"
        _refuse(CommandInvalid(str(error.format_message()), fix=fix), as_json)


def _meant(words: Sequence[str]) -> str:
    """What somebody meant who wrote a game where `match` takes players; nothing where they did not."""
    from cerulea.games.catalog import GAMES

    if len(words) > 3 and words[0] == "match" and words[1] in GAMES and "--game" not in words:
        return f"Name the game as an option: cerulea match {words[2]} {words[3]} --game {words[1]}"
    return ""


def _command_of(words: Sequence[str]) -> str:
    """The command among what was typed: `cerulea fund draw`."""
    command, path = typer.main.get_command(app), ["cerulea"]
    for word in words:
        if (found := getattr(command, "commands", {}).get(word)) is not None:
            command = found
            path.append(word)
    return " ".join(path)


def _refuse(error: CeruleaError, as_json: bool) -> None:
    if "/openapi.json" in error.fix:  # which is for programs that speak HTTP
        error.fix = f"See: {_command_of(sys.argv[1:])} --help"
    if as_json:
        put({"event": "error", **error.as_json()})
    print(f"{error.code}: {error.what}", file=sys.stderr)
    for line in (error.why, error.fix):
        if line:
            print(f"  {line}", file=sys.stderr)
    raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    run()
