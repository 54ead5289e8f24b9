"""bench/: timing in turns, the table and comparison of runs, and the plots of scaling, from small figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pytest_benchmark")

from bench import scaling, table  # noqa: E402
from bench.clips import CLIP, scaled  # noqa: E402
from bench.common import copying, cpu_seconds, in_turns, real_frames  # noqa: E402

ROOT = Path(__file__).parent.parent


def benchmark(
    test: str, what: str, at: str, median: float, yardsticks: dict[str, dict[str, float]], **extra: Any
) -> dict[str, Any]:
    info = {"what": what, "at": at, "units": 1, "cpu_seconds": median / 2, "yardsticks": yardsticks, "torch": "2.13.0"}
    return {"fullname": test, "stats": {"median": median}, "extra_info": {**info, "device": "2 threads", **extra}}


COPY = {"memory copy": {"seconds": 0.001, "cpu_seconds": 0.0005}, "reference in torch": {"seconds": 0.5}}
RUN: dict[str, Any] = {
    "datetime": "2026-11-23T04:00:00+00:00",
    "machine_info": {"python_version": "3.11.7", "cpu": {"brand_raw": "Some CPU", "count": 2}},
    "benchmarks": [
        benchmark("bench/bench_peers.py::test_peer[a]", "Zero-DCE", "360p", 0.7, {"rtlit": {"seconds": 0.005}}),
        benchmark("bench/bench_stages.py::test_apply[a]", "apply", "1080p yuv420p", 0.0047, COPY),
        benchmark(
            "bench/bench_video.py::test_whole_file[a]",
            "enhance_video",
            "720p, 300 frames",
            6.0,
            {"plain transcode": {"seconds": 3.0, "cpu_seconds": 4.0}},
            units=300,
            note="peak 600 MB",
        ),
        {"fullname": "elsewhere", "stats": {"median": 1.0}, "extra_info": {}},
    ],
}


class Pedantic:
    """Stands in for pytest-benchmark's fixture."""

    def __init__(self) -> None:
        self.extra_info: dict[str, Any] = {}
        self.rounds = 0

    def pedantic(self, target: Callable[[], None], setup: Callable[[], None], rounds: int) -> None:
        self.rounds = rounds
        for _ in range(rounds):
            setup()
            target()


def cells(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]


def test_the_table() -> None:
    text = table.table(RUN)
    assert text.splitlines()[0] == "Some CPU, 2 cores, 2 threads, Python 3.11.7, torch 2.13.0, 2026-11-23"
    assert cells(text) == [
        ["", "benchmark", "size", "time", "a second", "ratios", "note"],
        cells(text)[1],
        ["stage", "apply", "1080p yuv420p", "4.70 ms", "213", "4.70 × memory copy; 1/106 of reference in torch", ""],
        ["video", "enhance_video", "720p, 300 frames", "20.0 ms", "50.0", "2.00 × plain transcode", "peak 600 MB"],
        ["peer", "Zero-DCE", "360p", "700 ms", "1.43", "140 × rtlit", ""],
    ]
    assert len({len(line) for line in text.splitlines()[2:]}) == 1, "columns line up"


def test_seconds_on_the_cpu_leave_out_what_has_none() -> None:
    apply, video, peer = cells(table.table(RUN, cpu=True))[2:]
    assert apply[3:6] == ["2.35 ms", "426", "4.70 × memory copy"]
    assert video[3:6] == ["10.0 ms", "100", "0.75 × plain transcode"] and peer[5] == ""


def test_devices_have_a_column_where_there_are_several() -> None:
    run = deepcopy(RUN)
    run["benchmarks"][0]["extra_info"]["device"] = "Some GPU"
    head, _, apply, _, peer = cells(table.table(run))
    assert head[3] == "on" and apply[3] == "2 threads" and peer[3] == "Some GPU"


def test_a_slower_machine_is_not_a_slower_program() -> None:
    slow = deepcopy(RUN)
    for each in slow["benchmarks"][:3]:
        each["stats"]["median"] *= 3
        for yardstick in each["extra_info"]["yardsticks"].values():
            yardstick["seconds"] *= 3
    text, slower = table.comparison(slow, RUN, 0.25)
    assert not slower and "3 compared, geometric mean 1.00; 0 slower by more than 25%" in text
    assert cells(text)[2] == ["stage", "apply", "1080p yuv420p", "4.70 ms", "14.1 ms", "1.00", ""]


def test_what_became_slower_or_faster_is_said() -> None:
    new = deepcopy(RUN)
    peer, apply, video, _ = new["benchmarks"]
    apply["stats"]["median"] *= 1.3
    video["stats"]["median"] /= 1.3
    peer["fullname"] += "other"
    text, slower = table.comparison(new, RUN, 0.25)
    assert slower and [row[-1] for row in cells(text)[2:]] == ["slower", "faster", "new", "gone"]
    assert not table.comparison(new, RUN, 0.4)[1]


def test_peers_are_not_blamed_for_a_faster_rtlit() -> None:
    new = deepcopy(RUN)
    new["benchmarks"][0]["extra_info"]["yardsticks"]["rtlit"]["seconds"] /= 2
    text, slower = table.comparison(new, RUN, 0.25)
    assert not slower
    assert cells(text)[-1] == ["peer", "rtlit beside Zero-DCE", "360p", "5.00 ms", "2.50 ms", "0.50", "faster"]


@pytest.mark.parametrize(("tolerance", "code"), [("0.25", 1), ("0.4", 0)])
def test_the_commands_exit_code(tmp_path: Path, tolerance: str, code: int) -> None:
    new = deepcopy(RUN)
    new["benchmarks"][1]["stats"]["median"] *= 1.3
    for name, run in {"old": RUN, "new": new}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(run))
    with pytest.raises(SystemExit) as ended:
        table.main([*(str(tmp_path / "new.json"), "--against", str(tmp_path / "old.json")), "--tolerance", tolerance])
    assert ended.value.code == code


@pytest.mark.parametrize("text", [None, "{", "[]", "{}", '{"benchmarks": []}'])
def test_what_is_no_run(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "run.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SystemExit, match=r"run\.json: .*make bench writes one"):
        table.main([str(path)])


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(12.345, "12.3 s"), (0.0123456, "12.3 ms"), (25.5e-6, "25.5 µs"), (1e-3, "1.00 ms"), (3e-9, "3 ns")],
)
def test_durations(seconds: float, text: str) -> None:
    assert table.duration(seconds) == text


def test_yardsticks_run_before_every_round() -> None:
    order: list[str] = []
    fixture = Pedantic()
    in_turns(
        fixture,  # type: ignore[arg-type]
        lambda: order.append("ours"),
        {"floor": lambda: order.append("floor"), "peer": lambda: sum(range(300_000))},
        what="a thing",
        at="360p",
        units=8,
        rounds=3,
        device="cpu",
        once={"reference": 2.0},
        megapixels=0.23,
    )
    assert order == ["ours", "floor"] + 3 * ["floor", "ours"]
    info = fixture.extra_info
    assert (info["what"], info["at"], info["units"], info["megapixels"]) == ("a thing", "360p", 8, 0.23)
    assert list(info["yardsticks"]) == ["floor", "peer", "reference"]
    assert info["yardsticks"]["peer"]["cpu_seconds"] > info["yardsticks"]["floor"]["cpu_seconds"]
    assert info["yardsticks"]["reference"] == {"seconds": 2.0} and info["cpu_seconds"] < 1


@pytest.mark.parametrize(("seconds", "rounds"), [(0.0, 5), (1000.0, 200)])
def test_rounds_fit_the_time(seconds: float, rounds: int) -> None:
    fixture = Pedantic()
    in_turns(fixture, lambda: None, {}, what="nothing", seconds=seconds)  # type: ignore[arg-type]
    assert fixture.rounds == rounds


def test_cpu_seconds_count_children() -> None:
    before = cpu_seconds()
    subprocess.run([sys.executable, "-c", "sum(range(3_000_000))"], check=True)
    assert cpu_seconds() > before


def test_frames_are_real_and_dim() -> None:
    from rtlit.avframe import planes_of

    frames = real_frames("360p", "yuv420p", 2)
    planes = [planes_of(frame) for frame in frames]
    assert planes[0][0].shape == (360, 640) and 20 < planes[0][0].mean() < 90
    assert planes[0][0].std() > 10 and not np.array_equal(planes[0][0], planes[1][0])
    copy = copying(planes[0])
    copy()


def scaled_figures() -> dict[str, Any]:
    sizes = {"360p": 0.23, "720p": 0.92, "1080p": 2.07, "4K": 8.29}
    times = {"enhancer_ms": 4.0, "denoise_ms": 6.0, "copy_ms": 0.2, "plain_ms": 8.0, "video_ms": 15.0}
    pixels = [
        {"size": size, "megapixels": mp, "plain_peak_mb": 80 + 90 * mp, "video_peak_mb": 420 + 90 * mp}
        | {name: mp * ms for name, ms in times.items()}
        for size, mp in sizes.items()
    ]
    samples = [[frames, frames / 60, 500.0 + frames % 3] for frames in range(10, 1000, 10)]
    threads = [
        {"size": size, "threads": count, "enhancer_ms": 20 / count, "denoise_ms": 30 / count, "copy_ms": 0.4}
        for size in ("1080p", "4K")
        for count in (1, 2, 3, 4)
    ]
    about = {"cpu": "Some CPU", "cores": 2, "torch": "2.13.0", "pyav": "18.1.0"}
    length = {"size": "720p", "frames": 990, "plain": samples, "enhanced": samples}
    return {"machine": about, "pixels": pixels, "length": length, "threads": threads}


def test_the_plots(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    paths = scaling.plot(scaled_figures(), tmp_path)
    assert [path.name for path in paths] == ["scaling-pixels.svg", "scaling-memory.svg", "scaling-threads.svg"]
    for path in paths:
        text = path.read_text()
        assert ElementTree.fromstring(text).tag.endswith("svg")
        assert scaling.GREY in text and "#000000" not in text, "letters that a dark page shows, too"
        assert "#ffffff" not in text, "no background of its own"
    first = paths[0].read_bytes()
    assert scaling.plot(scaled_figures(), tmp_path)[0].read_bytes() == first, "the same figures give the same file"


def test_a_busy_machine_is_said(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found = scaled_figures()
    calm = scaling.plot(found, tmp_path)[0].read_bytes()
    found["machine"]["load"] = 7.5
    assert len(scaling.plot(found, tmp_path)[0].read_bytes()) > len(calm) + 1000, "letters are outlines"


def test_samples_are_thinned() -> None:
    samples = [(frames, 100 + frames / 50, 500.0) for frames in range(2401)]
    few = scaling.thinned(samples)
    assert 90 < len(few) < 110 and few[0] == (0, 0.0, 500.0) and few[-1] == (2400, 48.0, 500.0)


def test_pace_leaves_out_the_start() -> None:
    samples = [(5, 10.0, 400.0), (10, 10.5, 500.0), (60, 11.5, 500.0), (100, 12.3, 500.0)]
    assert scaling.pace(samples) == pytest.approx(1e3 * 1.8 / 90)


def test_memory_of_a_whole_video(tmp_path: Path) -> None:
    source = scaled(CLIP, 160, 96, 20, tmp_path)
    for run in (scaling.plain, scaling.enhanced):
        samples = run(source, tmp_path / "out.mp4")
        frames = [each[0] for each in samples]
        assert frames[-1] == 20 and frames == sorted(frames) and all(50 < each[2] < 5000 for each in samples)


@pytest.mark.timeout(240)
def test_the_benchmarks_start(tmp_path: Path) -> None:
    """The smallest of two files, timed for real: checked, recorded and in the table."""
    command = [sys.executable, "-m", "pytest", "bench/bench_stages.py", "bench/bench_enhancer.py", "-q"]
    which = ["-k", "(apply and 360p) or (test_frames and 360p-yuv420p-denoise and cpu)", "-p", "no:cacheprovider"]
    target = tmp_path / "run.json"
    options = ["--benchmark-quiet", f"--benchmark-json={target}"]
    # pytest-benchmark times nothing where it finds itself in one of pytest-xdist's workers.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    done = subprocess.run([*command, *which, *options], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = table.rows(table.load(target))
    assert [row.what for row in rows] == ["apply", "apply", "Enhancer, denoise"]
    assert all(row.seconds > 0 and list(row.ratios) == ["memory copy", "reference in torch"] for row in rows)
