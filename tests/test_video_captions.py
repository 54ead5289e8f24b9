"""Subtitles, chapters, covers and fonts in containers that hold none of them: converted, or dropped and said."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.outside import program
from tests.video_tools import DATA, enhance, make_clip

ENCODERS = {".webm": "libvpx", ".mpg": "mpeg2video", ".avi": "mpeg4"}


def streams(path: Path) -> list[str]:
    """What FFmpeg's program says of each stream beside the video, and of each chapter."""
    said = subprocess.run([program(), "-hide_banner", "-i", path], capture_output=True, check=False).stderr.decode()
    return re.findall(r"(?:Stream #0:\d+.*?: ((?!Video)\w+: \w+))|(Chapter) #", said)  # type: ignore[no-any-return]


@pytest.mark.parametrize("target", [".ts", ".m2ts", ".avi", ".flv", ".mpg"])
@pytest.mark.parametrize("codec", ["subrip", "ass"])
def test_what_players_could_not_name_is_not_written(tmp_path: Path, codec: str, target: str) -> None:
    parts = [(0, 0.2, "a"), (0.2, 0.4, "b")]
    source = make_clip(tmp_path / "in.mkv", range(10), text=[(0.1, 0.3, "one")], subtitle=codec, chapters=parts)
    report = enhance(source, tmp_path / f"out{target}", codec=ENCODERS.get(target, "libx264"))
    assert streams(tmp_path / f"out{target}") == []
    assert sum("subtitle stream 1" in line and "dropped" in line for line in report.warnings) == 1
    assert sum("chapters are dropped" in line for line in report.warnings) == 1


@pytest.mark.parametrize(
    ("target", "codec"), [(".mov", "mov_text"), (".3gp", "mov_text"), (".webm", "webvtt")]
)
def test_counterparts(tmp_path: Path, target: str, codec: str) -> None:
    text, parts = [(0.1, 0.3, "one")], [(0, 0.4, "a")]
    source = make_clip(tmp_path / "in.mkv", range(10), text=text, subtitle="subrip", chapters=parts)
    encoder = ENCODERS.get(target, "mpeg4" if target == ".3gp" else "libx264")
    report = enhance(source, tmp_path / f"out{target}", codec=encoder)
    found = streams(tmp_path / f"out{target}")
    assert (f"Subtitle: {codec}", "") in found and ("", "Chapter") in found
    assert [line for line in report.warnings if "chapter" in line] == []
    assert sum(f"converted from subrip to {codec}" in line for line in report.warnings) == 1


@pytest.mark.parametrize("target", [".mov", ".webm", ".ts"])
def test_covers_and_fonts_are_said_to_be_lost(tmp_path: Path, target: str) -> None:
    quick = {"codec": "libvpx", "options": (("cpu-used", "16"),)} if target == ".webm" else {"preset": "ultrafast"}
    for name, word in (("ae_h264-mjpeg.mp4", "cover picture"), ("ae_testsrc_with_attachment.mkv", "attachment")):
        report = enhance(DATA / name, tmp_path / f"{word}{target}", duration=0.2, **quick)
        assert sum(word in line and "dropped" in line for line in report.warnings) == 1


def test_m4v_keeps_a_cover(tmp_path: Path) -> None:
    report = enhance(DATA / "ae_h264-mjpeg.mp4", tmp_path / "out.m4v", preset="ultrafast", duration=0.2)
    assert report.warnings == []
