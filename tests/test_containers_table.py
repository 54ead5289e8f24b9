"""docs/containers.md has what bench/containers.py would write: its rows, no cell wrong, and some cells run again."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from bench import containers
from bench.container_check import JUDGES, Case
from bench.container_clips import SUFFIXES, make_clip, prepare
from bench.container_seen import Seen, look
from tests.outside import ffmpeg

Table = dict[str, dict[str, str]]


def tables(text: str) -> Iterator[Table]:
    """Row → column → cell of each table."""
    for found in re.finditer(r"(?:^\|.*\n)+", text, re.M):
        head, _, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in found[0].splitlines())
        yield {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows}


@pytest.fixture(scope="module")
def page() -> dict[str, Table]:
    """The page's tables by the names of `Job.table`; the three of "kept" as one."""
    names = ["kept", "kept", "kept", "moved", "codecs", "sound in", "sound from"]
    merged: dict[str, Table] = {name: {} for name in names}
    for name, table in zip(names, tables(containers.PAGE.read_text()), strict=True):
        for row, cells in table.items():
            merged[name].setdefault(row, {}).update(cells)
    return merged


def test_the_page_has_all_cases(page: dict[str, Table]) -> None:
    made: dict[str, set[str]] = {}
    for job in containers.jobs():
        made.setdefault(job.table, set()).add(job.row)
    assert {name: set(page[name]) for name in ("kept", "codecs")} == {name: made[name] for name in ("kept", "codecs")}
    assert {row.split(":")[0] for row in page["moved"]} == made["moved"]
    assert set(page["sound from"]) == made["sound from"] and set(page["sound in"]) <= made["sound in"]
    assert {column for cells in page["kept"].values() for column in cells} == set(JUDGES)
    for name in ("moved", "codecs", "sound from"):
        columns = {column for cells in page[name].values() for column in cells}
        assert columns == set(SUFFIXES if name != "sound from" else SUFFIXES[:-1])


def test_no_cell_is_wrong(page: dict[str, Table]) -> None:
    words = {cell for table in page.values() for cells in table.values() for cell in cells.values()}
    assert words <= {"kept", "converted", "dropped", "–"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("clips")
    prepare(made)
    return made


@pytest.mark.parametrize(
    "name",
    [
        "kept: h264 .mp4 (all) → .mp4",
        "kept: mpeg2video .ts (cut) → .ts",
        "kept: hevc .mkv (HDR10) → .mkv",
        "moved: h264 .mkv (turned) → .ts",
        "sound from: flac .mkv (sound) → .mp4",
    ],
)
def test_cells_run_again(name: str, page: dict[str, Table], folder: Path) -> None:
    (job,) = (job for job in containers.jobs() if f"{job.table}: {job.name}" == name)
    cells = containers.run(job, folder)
    assert cells
    for prop, cell in cells.items():
        row, column = {
            "kept": (job.row, prop),
            "moved": (f"{job.row}: {prop}", job.column),
            "sound from": (job.row, job.column),
        }[job.table]
        assert page[job.table][row][column] == cell.word, (prop, cell.seen)


@pytest.fixture(scope="module")
def seen(folder: Path) -> Seen:
    return look(make_clip(folder, "h264", ".mkv", "all"))


CHANGES: dict[str, Callable[[Seen], Any]] = {
    "picture": lambda seen: replace(seen, pixels=seen.pixels // 2),
    "times": lambda seen: replace(seen, times=[at * 2 for at in seen.times]),
    "pixel aspect": lambda seen: replace(seen, aspect=Fraction(1)),
    "range": lambda seen: replace(seen, range="tv"),
    "colour tags": lambda seen: replace(seen, colour="unknown unknown unknown"),
    "captions": lambda seen: replace(seen, captions=[]),
    "chapters": lambda seen: replace(seen, chapters=seen.chapters[:1]),
    "sound": lambda seen: replace(seen, sounds=[each._replace(blocks=each.blocks[:2]) for each in seen.sounds]),
    "attachments": lambda seen: replace(seen, extras=[]),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_changes_without_a_word_is_wrong(name: str, seen: Seen) -> None:
    assert JUDGES[name](Case(seen, seen, ())).word == "kept"
    assert JUDGES[name](Case(seen, CHANGES[name](seen), ())).word == "WRONG"


def test_a_warning_makes_the_difference(seen: Seen) -> None:
    flat = replace(seen, aspect=Fraction(1))
    assert JUDGES["pixel aspect"](Case(seen, flat, ["the pixel aspect ratio 16:15 is lost"])).word == "dropped"
    assert JUDGES["pixel aspect"](Case(seen, flat, ["the rotation is lost"])).word == "WRONG"


def test_the_program_is_another_one() -> None:
    import av

    assert ffmpeg("-version").decode().split()[2] != av.ffmpeg_version_info
