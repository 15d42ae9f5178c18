"""Rules of the house that no linter knows."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "cerulea").rglob("*.py"))
LONGEST = 450  # lines of a file
SAYS_NOTHING = {"util", "utils", "helper", "helpers", "common", "manager", "managers", "misc"}
TEXTS = {".py", ".md", ".toml", ".txt", ".cfg", ".ini", ".yml", ".yaml", ".sh", ".json", ""}


def tracked() -> list[Path]:
    """Files of the repository that hold text: what git knows of, or would."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    paths = [ROOT / name for name in listed.stdout.splitlines()]
    return [path for path in paths if path.is_file() and path.suffix in TEXTS]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_every_file_says_what_it_is():
    """Every module of the package has a docstring; an __init__.py may be empty."""
    silent = []
    for path in SOURCES:
        source = path.read_text(encoding="utf-8")
        if source.strip() and ast.get_docstring(ast.parse(source)) is None:
            silent.append(name_of(path))

    assert silent == []


def test_no_name_fits_everything():
    """No module or package is called utils or the like."""
    names = {name_of(p): {p.stem, *p.relative_to(ROOT).parts[:-1]} for p in SOURCES}

    assert [path for path, parts in names.items() if parts & SAYS_NOTHING] == []


def test_files_are_read_in_one_sitting():
    long = {name_of(p): n for p in SOURCES if (n := len(p.read_text(encoding="utf-8").splitlines())) > LONGEST}

    assert long == {}


def package_of(path: Path) -> str:
    """The package below cerulea/ that a file is in, however deep."""
    return path.relative_to(ROOT / "cerulea").parts[0]


def test_every_module_is_on_the_map():
    """docs/map.md has a section for every package and a line for every file in it."""
    page = (ROOT / "docs" / "map.md").read_text(encoding="utf-8")
    sections = {part.splitlines()[0].split(":")[0].strip(): part for part in page.split("\n## ")}
    missing = [
        name_of(path)
        for path in SOURCES
        if path.name != "__init__.py" and f"`{path.name}`" not in sections.get(package_of(path), "")
    ]

    assert missing == []


def test_the_map_names_no_file_that_is_gone():
    page = (ROOT / "docs" / "map.md").read_text(encoding="utf-8")
    known = {f"{package_of(path)}/{path.name}" for path in SOURCES}
    gone = []
    for part in page.split("\n## ")[1:]:
        package = part.splitlines()[0].split(":")[0].strip()
        if (ROOT / "cerulea" / package).is_dir():
            named = re.findall(r"^\| `(\w+\.py)` \|", part, flags=re.MULTILINE)
            gone += [f"{package}/{name}" for name in named if f"{package}/{name}" not in known]

    assert gone == []


def test_the_repository_speaks_of_no_machine():
    """No path of the checkout or of anybody's home, and no address of a package index."""
    places = [
        re.escape(f"{ROOT.as_posix()}/"),
        r"(?<![\w.~/])/(?:home|Users|root)/\w",
        "index-" + "url",
        "pypi" + r"\.org/simple",
    ]
    pattern = re.compile("|".join(places))
    found = []
    for path in tracked():
        text = path.read_text(encoding="utf-8", errors="replace")
        if path != Path(__file__).resolve() and (match := pattern.search(text)):
            found.append(f"{name_of(path)}: {match[0]}")

    assert found == []


def test_dependencies_are_pinned_as_they_are_asked_for():
    """constraints.txt pins every direct dependency, torch to the very version of pyproject.toml."""
    pins = dict(
        line.lower().split("==")
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    )
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    asked = re.findall(r'^    "([A-Za-z0-9-]+)(?:>=|==)', project, flags=re.MULTILINE)
    asked += re.findall(r'\["([A-Za-z0-9-]+)>=', project.split("[build-system]")[1].split("[project]", 1)[1])

    assert [name for name in asked if name.lower() not in pins] == []
    assert f'"torch=={pins["torch"]}"' in project
    assert not any("+" in version for version in pins.values())
