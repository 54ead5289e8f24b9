"""Preferences of the live window: kept over restarts, and a damaged file harms no one."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from rtlit.errors import OutputError
from rtlit.live.preferences import Preferences


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration folder that isn't there yet."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path


def load_with_warnings() -> tuple[Preferences, list[str]]:
    lines: list[str] = []
    return Preferences.load(lines.append), lines


def write(text: str) -> None:
    Preferences.path().parent.mkdir(parents=True, exist_ok=True)
    Preferences.path().write_text(text)


def test_first_run_has_the_defaults_and_says_nothing() -> None:
    assert load_with_warnings() == (Preferences(), [])


def test_what_is_saved_is_loaded() -> None:
    saved = Preferences(
        strength=1.24,
        smoothing=0.0,
        mirror_camera=False,
        mirror_other=True,
        compare=True,
        split=0.125,
        full_screen=True,
        statistics=True,
        window_size=(1201, 675),
    )
    saved.save()
    assert load_with_warnings() == (saved, [])
    assert json.loads(Preferences.path().read_text())["window_size"] == [1201, 675]


def test_mirror_is_remembered_for_cameras_and_others_apart() -> None:
    camera = Preferences.load(camera=True)
    assert camera.mirror
    camera.mirror = False
    camera.save()
    file = Preferences.load(camera=False)
    assert not file.mirror
    file.mirror = True
    file.save()
    assert (Preferences.load(camera=True).mirror, Preferences.load(camera=False).mirror) == (False, True)


@pytest.mark.parametrize("text", ["", "{", "\x00\xff", "[1]", "null", "[" * 100_000])
def test_damaged_file_is_one_warning(text: str) -> None:
    write(text)
    preferences, lines = load_with_warnings()
    assert preferences == Preferences()
    (line,) = lines
    assert str(Preferences.path()) in line and "damaged" in line and "\n" not in line


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("strength", 2.01),
        ("strength", -1),
        ("strength", "strong"),
        ("strength", True),
        ("strength", float("nan")),
        ("smoothing", 1e9),
        ("split", None),
        ("compare", 1),
        ("mirror_camera", "no"),
        ("window_size", [1280]),
        ("window_size", [1280, 720.5]),
        ("window_size", [1280, -1]),
        ("window_size", 5),
    ],
)
def test_unusable_value_is_named_and_the_others_stay(name: str, value: object) -> None:
    write(json.dumps({name: value, "full_screen": True, "statistics": True}))
    preferences, (line,) = load_with_warnings()
    assert preferences == Preferences(full_screen=True, statistics=True)
    assert f" {name} " in line


def test_unknown_names_are_kept_out() -> None:
    write('{"password": "x", "camera": false, "save": 1, "strength": 0.5}')
    preferences, lines = load_with_warnings()
    assert (preferences, preferences.camera, lines) == (Preferences(strength=0.5), True, [])
    preferences.save()
    assert "password" not in Preferences.path().read_text()


def test_relative_or_missing_xdg_path_means_dot_config(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("HOME", str(home))
    for value in ("relative/path", ""):
        monkeypatch.setenv("XDG_CONFIG_HOME", value)
        assert Preferences.path() == home / ".config" / "rtlit" / "live.json"
    monkeypatch.delenv("XDG_CONFIG_HOME")
    assert Preferences.path() == home / ".config" / "rtlit" / "live.json"


def test_a_link_stays_a_link(home: Path) -> None:
    target = home / "dotfiles" / "live.json"
    target.parent.mkdir()
    Preferences.path().parent.mkdir(parents=True)
    Preferences.path().symlink_to(target)
    Preferences(strength=0.75).save()
    assert Preferences.path().is_symlink() and json.loads(target.read_text())["strength"] == 0.75


def test_unwritable_place_is_one_line_and_leaves_the_old_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Preferences(strength=0.5).save()

    def full(source: str, target: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OutputError, match="can't be saved: No space left on device"):
        Preferences(strength=1.5).save()
    assert Preferences.load().strength == 0.5
    assert os.listdir(Preferences.path().parent) == ["live.json"]


def test_a_file_in_the_folders_place_is_one_line(home: Path) -> None:
    (home / "config").write_text("")
    with pytest.raises(OutputError, match="settings can't be saved"):
        Preferences().save()
    preferences, lines = load_with_warnings()
    assert preferences == Preferences() and len(lines) == 1
