"""bench/live.py: its table, what a soak is judged by, and a real case of a second."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from bench import live
from bench.live import Case, Result, Sample

GRAPH = "lavfi:testsrc2=size=160x120:rate=30"
ROW = Result("1280×720", "none", "numba", 20.04, 31.0, 30.0, 29.96, 2, 9.5, 81.4, 402.3)


def soak(rss: Any, latency: Any = lambda minute: 20.0, minutes: int = 31) -> list[Sample]:
    seconds = range(10, 60 * minutes + 1, 10)
    return [Sample(at, rss(at / 60), 30.0, latency(at / 60), 40.0, at // 100) for at in seconds]


def test_a_soak_with_flat_memory_is_good() -> None:
    warm = soak(lambda minute: 400 + 50 * min(minute, 0.9) + 3 * (minute % 2), lambda minute: 20 + minute / 10)
    text, grew = live.judge(warm)
    assert not grew
    assert "30.0 minutes, 181 samples" in text and "latency: 20.1 → 23.1 ms; +3.00 ms" in text
    assert "pace: 30.00 to 30.00 fps; longest gap 40 ms" in text and "dropped: 18 frames" in text


def test_a_kilobyte_a_frame_is_found() -> None:
    text, grew = live.judge(soak(lambda minute: 400 + 1.8 * minute))
    assert grew and "400" not in text.split("→")[1].splitlines()[0] and "+54.00 MB" in text


def test_a_soak_that_is_too_short() -> None:
    with pytest.raises(click.ClickException, match="a soak of 20 s has too few samples"):
        live.judge(soak(lambda minute: 400)[:2])


def test_the_table() -> None:
    head, line, row = live.table([ROW]).splitlines()
    assert row == "| 1280×720 | none | 20.0 | 31.0 | 30.0 | 30.0 | 2 | 9.5 | 81 | 402 |"
    assert head.count("|") == line.count("|") == row.count("|")
    assert "| 7 |" in live.table([ROW, replace(ROW, recorder_dropped=7)]).splitlines()[3]


@pytest.mark.parametrize("viewer", ["none", "web"])
def test_a_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, viewer: str) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr(live, "WARM_UP", 0.2)
    if viewer == "web":
        pytest.importorskip("aiohttp")
        monkeypatch.setattr(live, "ProcessPoolExecutor", InThread)
    result = live.measure(Case(GRAPH, False, viewer, 1.0, "cpu", viewer == "none", str(tmp_path), 0.5))
    assert (result.size, result.viewer, result.fps_in > 0, result.fps_out > 0) == ("160×120", viewer, True, True)
    assert 0 < result.latency_ms <= result.latency_p95_ms < 20_000
    assert result.cpu_percent > 0 and result.rss_mb > 10
    assert len(result.samples) == 2 and result.samples[0].seconds < result.samples[1].seconds
    assert (tmp_path / "live.mp4").exists() == (viewer == "none")


class InThread:
    """A pool of one thread, for the stand-in of the browser."""

    def __init__(self, *_: Any) -> None:
        pass

    def __enter__(self) -> InThread:
        return self

    def submit(self, function: Any, *arguments: Any) -> None:
        self._thread = threading.Thread(target=function, args=arguments)
        self._thread.start()

    def __exit__(self, *_: Any) -> None:
        self._thread.join()


def test_a_source_that_is_not_there_is_said_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr(live, "run", live.measure)
    ran = CliRunner().invoke(live.main, ["--source", str(tmp_path / "no.mp4"), "--viewer", "none"])
    assert ran.exit_code == 1 and "no such file" in ran.output and "Traceback" not in ran.output


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leaky = replace(ROW, samples=soak(lambda minute: 400 + 2 * minute))
    monkeypatch.setattr(live, "run", lambda case: leaky if case.sample else ROW)
    written = tmp_path / "figures.json"
    ran = CliRunner().invoke(live.main, ["--source", GRAPH, "--json", str(written)])
    assert ran.exit_code == 0 and live.table([ROW]) in ran.output
    assert json.loads(written.read_text())["results"][0]["latency_ms"] == 20.04
    ran = CliRunner().invoke(live.main, ["--source", GRAPH, "--soak", "31"])
    assert ran.exit_code == 1 and "memory grew by more than 16 MB" in ran.output
