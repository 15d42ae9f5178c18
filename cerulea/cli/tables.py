"""Tables and lines that answer a question: machines, scores, models, what is known. Numbers become text here.

Not here: what moves while a person waits (`view`, `view_play`), lists that any command shows (`reach.show`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from cerulea.cli.lines import add_names, put
from cerulea.cli.view import command, counted

# Of a model's card and a run's record: says nothing where no text was read.
OF_TEXT = ("vocab", "context", "bits_per_byte", "loss", "trained_tokens", "corpus", "tokenizer", "evaluations")


def show_machine(values: dict[str, Any]) -> None:
    """`cerulea doctor` for a person."""
    print(
        f"{values['device']}: {counted(values['cores'], 'core')}, {counted(values['threads'], 'thread')}, "
        f"{values['memory_bytes'] / 2**30:.1f} GiB of memory"
    )
    print(
        f"matrix products   fp32 {values['matmul_fp32_gflops']:,.0f} GFLOP/s   "
        f"bf16 {values['matmul_bf16_gflops']:,.0f} GFLOP/s"
    )
    print(f"memory reads      {values['memory_read_gb_per_s']:.1f} GB/s")
    for gpu in values["gpus"]:
        print(f"gpu               {gpu['name']}, {gpu['memory_bytes'] / 2**30:.0f} GiB")
    print(f"training begins with {values['precision']}; each run probes its own shape where there is a choice")


def show_score(values: dict[str, Any]) -> None:
    """`cerulea eval` for a person."""
    print(
        f"{values['bits_per_byte']:.4f} bits per byte, perplexity {values['perplexity']:.3f} "
        f"({values['loss']:.4f} nats per token), {values['tokens']:,} tokens, {values['bytes']:,} bytes"
    )


def show_tasks(suite: str, tasks: dict[str, dict[str, Any]]) -> None:
    """A suite's results; what is missing is named."""
    table = Table(title=suite)
    table.add_column("task")
    table.add_column("result")
    for name, metrics in tasks.items():
        cells = [f"{k} {v:.4f}" if isinstance(v, float) else f"{k} {v}" for k, v in metrics.items()]
        table.add_row(name, "\n".join(cells))
    Console().print(table)


def show_judged(values: dict[str, Any]) -> None:
    """`cerulea eval` of an agent: shares won, how it behaves."""
    table = Table(title=f"{values['model']} in {values['game']} {values['version']}")
    for column in ("against", "won", "95 %", "out of time"):
        table.add_column(column, justify="left" if column == "against" else "right")
    rows = [*values["against"], *values["past"]]
    for row in rows:
        table.add_row(
            row["opponent"], f"{row['share']:.1%}", f"{row['low']:.1%} to {row['high']:.1%}", str(row["timeouts"])
        )
    if rows:
        Console().print(table)
    else:
        print(f"{table.title}, {values['n']:,} matches")
    if values["forgetting"] is not None:
        print(f"least against its own past: {values['forgetting']:.1%}")
    if (found := values.get("exploiter")) is not None:
        print(
            f"an exploiter, after {found['agent_steps']:,} decisions, wins {found['share']:.1%} "
            f"(95 %: {found['low']:.1%} to {found['high']:.1%})"
        )
    for name, value in values["behaviour"].items():
        print(f"{name.replace('_', ' ')}: {value:.4g}")


def show_text(number: int, of: int, prompt: str, text: str) -> None:
    """One sample."""
    if of > 1:
        print(f"--- {number + 1} of {of}")
    print(f"{prompt}{text}")


def show_models(found: Sequence[dict[str, Any]]) -> None:
    """`cerulea models` for a person."""
    if not found:
        print(f"No models yet. Train one: {command()} train recipes/quickstart.toml")
        return
    table = Table()
    names = [f"{model['model']}@{model['version']}" for model in found]
    texts = any(model.get("context") for model in found)  # agents have none
    add_names(table, "model", names)
    for column in ("aliases", "kind", "parameters", *(("context",) if texts else ()), "score", "trained on"):
        table.add_column(column, justify="left" if column in ("aliases", "kind") else "right", overflow="fold")
    for name, model in zip(names, found, strict=True):
        table.add_row(
            name,
            "retired" if model["retired"] else " ".join(model["aliases"]),
            str(model.get("preset", "")),
            short(model.get("parameters", 0)),
            *((f"{model['context']:,}" if model.get("context") else "",) if texts else ()),
            *_score(model),
        )
    Console().print(table)


def _score(model: dict[str, Any]) -> tuple[str, str]:
    """How good a model is, and what it was trained on: bits per byte and tokens, or a rating and decisions."""
    extra = model.get("extra") or {}
    if "agent_steps" in extra:
        rating, paid = extra.get("rating"), extra.get("episode_return")
        score = f"{rating:.1f} points" if rating is not None else f"return {paid:.1f}" if paid is not None else "-"
        return score, f"{short(extra['agent_steps'])} decisions"
    bits = model.get("bits_per_byte")
    return f"{bits:.4f} bits/byte" if bits is not None else "-", f"{short(model.get('trained_tokens', 0))} tokens"


def short(number: int) -> str:
    """Three digits of a large number: 9,999, 56.0K, 2.01M."""
    if number < 10_000:
        return f"{number:,}"
    rounded = float(f"{number:.3g}")
    unit, name = next(each for each in ((1e9, "B"), (1e6, "M"), (1e3, "K")) if rounded >= each[0])
    value = rounded / unit
    return f"{value:.{3 - len(str(int(value)))}f}{name}" if value < 1000 else f"{value:,.0f}{name}"


def show_moves(moves: Sequence[dict[str, Any]], as_json: bool) -> None:
    """Moves of aliases, one a line."""
    for move in moves:
        if as_json:
            put(move)
            continue
        before, after = (f"{move['model']}@{n}" if n else "nothing" for n in (move["before"], move["after"]))
        print(f"{move['at']}  {move['model']}:{move['alias']}  {before} -> {after}  by {move['actor']}")


def of_agent(known: dict[str, Any]) -> dict[str, Any]:
    """What is known of an agent, or of the run that made one, without the measures of language models."""

    def kept(values: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in values.items() if value or key not in OF_TEXT}

    found = kept(known)
    for name in ("card", "run"):
        if isinstance(found.get(name), dict):
            found[name] = kept(found[name])
    for at in (found, found.get("run") or {}):
        if isinstance(at.get("usage"), dict):
            at["usage"] = {key: value for key, value in at["usage"].items() if value}
    return found


def show_known(known: dict[str, Any], depth: int = 0) -> None:
    """`cerulea show` for a person: keys and values, numbers rounded, evaluations as a table."""
    if depth == 0 and "game" in (known.get("config") or known):
        known = of_agent(known)
    for name, value in known.items():
        pad = "  " * depth
        if depth == 0 and value is None:
            continue
        if isinstance(value, dict):
            print(f"{pad}{name}:")
            show_known(value, depth + 1)
        elif name == "evaluations" and value:
            print(f"{pad}evaluations:")
            for line in value:
                print(
                    f"{pad}  step {line['step']:>7,}  {line['bits_per_byte']:.4f} bits per byte  "
                    f"{line['elapsed_s']:.1f} s"
                )
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            print(f"{pad}{name}:")
            for line in value:
                print(f"{pad}  {'  '.join(f'{key} {_plain(part)}' for key, part in line.items())}")
        else:
            print(f"{pad}{name}: {_plain(value)}")


def _plain(value: object) -> str:
    """A value as text; a fraction with as many digits as mean something to a person."""
    return f"{value:.4g}" if isinstance(value, float) and abs(value) < 1000 else str(value)
