"""Settings come from the environment, once, and what cannot be is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from cerulea.core.errors import Invalid
from cerulea.core.settings import read_settings


def test_without_variables_the_defaults_hold():
    """An empty variable counts as not set."""
    settings = read_settings({"CERULEA_HOME": "", "CERULEA_THREADS": ""})

    assert settings.home == Path.home() / ".cerulea"
    assert (settings.threads, settings.device) == (0, "auto")
    assert settings.runs.parent == settings.models.parent == settings.shards.parent == settings.home


def test_variables_are_read_and_the_flag_wins(tmp_path: Path):
    environment = {"CERULEA_HOME": "/somewhere", "CERULEA_THREADS": "3", "CERULEA_DEVICE": "cpu"}

    settings = read_settings(environment)

    assert (settings.home, settings.threads, settings.device) == (Path("/somewhere"), 3, "cpu")
    assert read_settings(environment, home=tmp_path).home == tmp_path


def test_a_tilde_is_the_persons_home():
    assert read_settings({"CERULEA_HOME": "~/x"}).home == Path.home() / "x"
    assert read_settings({}, home=Path("~/y")).home == Path.home() / "y"


def test_roots_are_whole_paths_and_by_default_the_homes_data(tmp_path: Path):
    assert read_settings({}, home=tmp_path).roots == (tmp_path / "data",)
    assert read_settings({"CERULEA_DATA_ROOTS": "/srv/a::~/b"}).roots == (Path("/srv/a"), Path.home() / "b")
    with pytest.raises(Invalid, match="CERULEA_DATA_ROOTS names 'b'"):
        read_settings({"CERULEA_DATA_ROOTS": "/srv/a:b"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CERULEA_THREADS", "two"),
        ("CERULEA_DEVICE", "tpu"),
        ("CERULEA_SERVE_ENGINE", "theirs"),
        ("CERULEA_SERVE_WEIGHTS", "int3"),
        ("CERULEA_SERVE_ROWS", "0"),
        ("CERULEA_SERVE_GRACE_S", "-1"),
    ],
)
def test_a_variable_that_cannot_be_is_named(name: str, value: str):
    with pytest.raises(Invalid, match=f"{name} is '{value}'"):
        read_settings({name: value})
