"""The generated pages are what the code says, and what people rely on in them is sound."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from cerulea.cli import reference
from cerulea.cli.main import app

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")


def test_generated_pages_are_fresh():
    """`make docs` would change nothing."""
    assert reference.stale() == []


def test_generated_pages_do_not_depend_on_the_terminal(monkeypatch: pytest.MonkeyPatch):
    """A narrow terminal without colours gives the same pages."""
    wide = reference.pages()

    for name, value in {"COLUMNS": "40", "TERM": "dumb", "NO_COLOR": "1", "CERULEA_HOME": "/elsewhere"}.items():
        monkeypatch.setenv(name, value)

    assert reference.pages() == wide


def test_a_stale_page_is_named_and_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """One page changed by hand and three missing: the check names all four, writing mends them."""
    monkeypatch.setattr(reference, "DOCS", tmp_path)
    (tmp_path / "cli.md").write_text("old", encoding="utf-8")
    said: list[str] = []

    assert reference.main(["--check"], said.append) == 1
    assert reference.main([], lambda line: None) == 0
    assert reference.main(["--check"], said.append) == 0

    assert len(said) == 4
    assert said[0] == "docs/cli.md is not what the code says. Write it anew: make docs"


def test_every_error_code_is_unique_and_well_formed():
    codes = [kind.code for kind, _ in reference.error_tree()]

    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch(r"E-[A-Z]+-\d{3}", code) for code in codes)


def test_every_code_in_the_source_is_documented():
    """A code that a program may meet stands on docs/errors.md."""
    documented = set(re.findall(r"`(E-[A-Z]+-\d{3})`", reference.errors_page()))
    used = {
        code
        for path in (ROOT / "cerulea").rglob("*.py")
        for code in re.findall(r'"(E-[A-Z]+-\d{3})"', path.read_text(encoding="utf-8"))
    }

    assert used == documented


def test_the_drawn_tree_of_errors_names_every_error():
    """core/errors.py draws in its docstring exactly the classes that it defines, in their order."""
    source = (ROOT / "cerulea" / "core" / "errors.py").read_text(encoding="utf-8").split('"""')[1]
    drawn = re.findall(r"^ {4}(?:[│ ] {3})*(?:[├└]── )?([A-Z]\w+) {2,}", source, flags=re.MULTILINE)

    assert drawn == [kind.__name__ for kind, _ in reference.error_tree()]


def test_every_command_and_option_has_a_help_text():
    page = reference.cli_page()

    assert "|  |  |" not in page
    assert page.count("\n## cerulea ") == len(list(reference.commands(typer.main.get_command(app))))
    assert "\n## cerulea fund draw\n" in page


def test_help_is_quick_because_it_loads_nothing_heavy():
    """`cerulea --help` imports no torch, numpy or tokenizers."""
    program = (
        "import sys\nfrom typer.testing import CliRunner\nfrom cerulea.cli.main import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "print([m for m in ('torch', 'numpy', 'tokenizers', 'safetensors') if m in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "page", [p.relative_to(ROOT).as_posix() for p in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"))]
)
def test_links_lead_somewhere(page: str):
    """Every relative link of a page is a file or folder of the repository."""
    path = ROOT / page
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    targets = [t for t in LINK.findall(text) if "://" not in t]

    assert [t for t in targets if not (path.parent / t).exists()] == []
