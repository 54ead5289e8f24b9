"""bench/gpu.py on the CPU: the steps that a GPU will run, in Triton's interpreter and at tiny sizes; and the peers."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import types
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

if find_spec("triton") is None and sys.platform != "linux":
    pytest.skip(f"no triton for {sys.platform}", allow_module_level=True)

from tests.kernels.conftest import CUDA  # before triton, which flop_counter imports: chooses its interpreter

# isort: split
from torch.utils.flop_counter import FlopCounterMode

from bench import gpu, gpu_checks, gpu_steps, tune
from bench.gpu_cases import FORMATS, KernelCases, Plan, clip, host_frames
from bench.gpu_report import TARGETS, find, show_step, summary, table
from bench.gpu_timing import Meter, Times
from bench.peers import PEERS, FramePeer
from rtlit.backends import cuda_engine

ROOT = Path(__file__).parent.parent
PLAN = Plan.make(rehearsal=True)


@pytest.fixture
def report(tmp_path: Path) -> gpu.Report:
    return gpu.Report(tmp_path / "report.json")


# What docs/design.md's targets are about, from the papers: parameters, and multiplications (GMAC) of a 1080p frame.
@pytest.mark.parametrize(
    ("name", "parameters", "gmac"),
    [("Zero-DCE", 79_416, 164), ("Zero-DCE++", 10_561, 0.145), ("SCI", 258, 0.504), ("CLIP-LIT U-Net", 278_790, 576)],
)
def test_peer_is_as_large_as_published(name: str, parameters: int, gmac: float) -> None:
    network = PEERS[name]().to("meta")
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    frame = torch.empty(1, 3, 1080, 1920, device="meta")
    with FlopCounterMode(display=False) as counter:
        assert network(frame).shape == frame.shape
    assert counter.get_total_flops() / 2e9 == pytest.approx(gmac, rel=0.01)


@pytest.mark.parametrize("name", PEERS)
def test_peer_makes_pictures_of_pictures(name: str) -> None:
    peer = FramePeer(name)
    assert all(bool(((p == 0) | (p.abs() > torch.finfo(p.dtype).tiny)).all()) for p in peer.parameters())
    frame = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (37, 53, 3), np.uint8))
    result = peer(frame)
    assert result.shape == frame.shape and result.dtype == torch.uint8
    assert result.float().std() > 1
    assert torch.equal(result, FramePeer(name)(frame)), "the weights are a function of the seed"


def test_times() -> None:
    times = Times([float(value) for value in range(1, 11)])
    assert (times.median, times.p90) == (5.5, 9.0)


def test_meter_orders_what_takes_longer() -> None:
    meter = Meter(PLAN.device, samples=5)
    short, long = (lambda: time.sleep(0.001)), (lambda: time.sleep(0.005))
    for way in (meter.repeated, meter.cold, meter.host, lambda call: meter.rotated([call, call])):
        assert 1000 <= way(short).median < way(long).median


def test_buffers_outgrow_the_cache() -> None:
    meter = Meter(PLAN.device)
    meter.cache_bytes = 50 << 20
    assert meter.sets(6 << 20) * (6 << 20) >= 100 << 20
    assert (meter.sets(1), meter.sets(1 << 30)) == (64, 3)


@pytest.mark.parametrize("name", FORMATS)
def test_host_frames_are_the_clip(name: str) -> None:
    pixel_format = FORMATS[name]
    frames, seconds = clip()
    assert len(frames) == len(seconds) == 6 and seconds == sorted(seconds)
    (planes,) = host_frames(pixel_format, (144, 256), 1)
    assert planes[0].shape == (144, 256)
    scale = 1 << (pixel_format.depth - 8 + pixel_format.low_bits)
    assert np.array_equal(planes[0], frames[0][0].numpy().astype(planes[0].dtype) * scale)
    chroma = planes[1][:, 0::2] if pixel_format.interleaved else planes[1]
    assert np.array_equal(chroma, frames[0][1].numpy().astype(chroma.dtype) * scale)


def test_report_is_on_disk_at_once(report: gpu.Report) -> None:
    report.add("a", "b", value=1)
    report.attempt("a", "c", make=lambda: 1 // 0)
    written = json.loads(report.path.read_text())
    assert written["a"]["b"] == 1 and "ZeroDivisionError" in written["a"]["c"]["error"]
    assert gpu.failures(written) == ["a.c"]
    assert gpu.failures({"x": {"ok": False}, "y": {"ok": True, "z": 1}}) == ["x"]


def assert_targets_found(step: str, values: dict[str, Any]) -> None:
    """What the targets look for in a step's results is there."""
    for target in TARGETS:
        if target.path[0] == step:
            assert find({step: {"values": values}}, target.path) > 0, target


def test_targets_are_met_at_their_limits() -> None:
    steps: dict[str, Any] = {}
    for target in TARGETS:
        at = steps.setdefault(target.path[0], {"values": {}})["values"]
        for name in target.path[1:-1]:
            at = at.setdefault(name, {})
        at[target.path[-1]] = target.limit
    rows = summary(steps)
    assert [row["met"] for row in rows] == [True] * len(TARGETS)
    assert [row["measured"] for row in summary({})] == [None] * len(TARGETS)
    assert {target.path[0] for target in TARGETS} == {"frames", "sizes", "peers"}, "assert_targets_found sees these"


@pytest.mark.parametrize(
    ("pixel_format", "name"), [*(("nv12", name) for name in KernelCases.names), ("p010le", "apply_curves")]
)
def test_kernel_is_checked_against_the_reference(pixel_format: str, name: str) -> None:
    cases = KernelCases(PLAN, FORMATS[pixel_format], PLAN.sizes["720p"])
    assert cases.grid.any(), "there is something to lift"
    checked = cases.check(name)
    assert checked["ok"], checked
    assert cases.bytes_moved(name) > 0


@pytest.fixture
def idle_launchers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Launchers that launch nothing: what lies around them is tried without the interpreter's seconds a frame."""
    launchers = {"analyze": "analyze", "estimate": "estimate", "restrain": "restrain", "smooth": "follow"}
    for module, name in {**launchers, "denoise": "filter_planes", "apply": "apply_curves"}.items():
        monkeypatch.setattr(sys.modules[f"rtlit_kernels.{module}"], name, lambda *_, **__: None)
        monkeypatch.setattr(cuda_engine, name, lambda *_, **__: None)


def test_a_wrong_kernel_is_not_timed(idle_launchers: None, report: gpu.Report) -> None:
    gpu_steps.kernels(report, PLAN)
    results = report.values["1080p nv12"]
    assert "median_us" in results.pop("copy of a frame")
    assert list(results) == list(KernelCases.names)
    for result in results.values():
        assert "not timed" in result["error"] and not result["ok"] and "median_us" not in result


def test_step_engine(report: gpu.Report) -> None:
    gpu_checks.engine(report, PLAN)
    assert gpu.failures(report.values) == [], report.values
    assert all(row["frames"] == 3 and row["graph_is_plain_to_the_bit"] for row in report.values.values())


def test_step_engine_finds_what_is_wrong(idle_launchers: None, report: gpu.Report) -> None:
    gpu_checks.engine(report, PLAN)
    (row,) = report.values.values()
    assert not row["ok"] and row["worst_codes"] > gpu_checks.WORST_CODES


@pytest.mark.parametrize("name", ["machine", "frames", "peers", "compiled_peers", "stream", "changes"])
def test_step(name: str, idle_launchers: None, report: gpu.Report) -> None:
    getattr(gpu_steps, name)(report, PLAN)
    assert report.values
    assert gpu.failures(report.values) == [], report.values
    assert_targets_found(name, report.values)


def test_step_sizes(idle_launchers: None, monkeypatch: pytest.MonkeyPatch, report: gpu.Report) -> None:
    monkeypatch.setattr(KernelCases, "check", lambda *_: {"ok": True})
    gpu_steps.sizes(report, PLAN)
    assert gpu.failures(report.values) == [], report.values
    assert_targets_found("sizes", report.values)
    assert report.values["8K nv12"]["graph"]["cold"]["median_us"] > 0


def test_sanitizer_exercises_every_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    called = set()
    for name in KernelCases.names:
        monkeypatch.setattr(cuda_engine, name, lambda *_, name=name, **__: called.add(name))
    gpu_steps.exercise(PLAN)
    assert called == set(KernelCases.names)


def test_step_tests_counts_failures(report: gpu.Report, tmp_path: Path) -> None:
    gpu_checks.tests(report, PLAN)
    assert report.values["pytest"]["ok"] and report.values["pytest"]["tests"] > 0
    junit = tmp_path / "junit.xml"
    junit.write_text(
        '<testsuites><testsuite tests="2" failures="1" errors="0" skipped="1">'
        '<testcase classname="c" name="n"><failure>why</failure></testcase></testsuite></testsuites>'
    )
    assert gpu_checks._counts(junit) == {
        "ok": False,
        "tests": 2,
        "failures": 1,
        "errors": 0,
        "skipped": 1,
        "failed": {"c::n": "why"},
    }


def test_step_cold_start(report: gpu.Report) -> None:
    """Twice a process with an Enhancer; without PyAV, as on the machines that this is for."""
    gpu_checks.cold_start(report, PLAN)
    assert gpu.failures(report.values) == [], report.values
    for row in report.values.values():
        assert len(row["frames_s"]) == 3
        parts = row["python_s"] + row["imports_s"] + row["enhancer_s"] + row["frames_s"][0]
        assert row["total_s"] == pytest.approx(parts, abs=0.1)


def test_nothing_imports_pyav() -> None:
    code = """
import sys
sys.modules["av"] = sys.modules["pyvips"] = None
from bench import gpu_checks, gpu_report, gpu_steps, tune
import rtlit.enhancer
"""
    environment = {**gpu_checks._environment(), "TRITON_INTERPRET": "1"}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True)


def test_command_without_a_gpu(tmp_path: Path) -> None:
    if CUDA:
        pytest.skip("there is one")
    for command in (["bench/gpu.py", "-o", tmp_path / "x.json"], ["bench/tune.py"]):
        done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 2 and "no CUDA device" in done.stderr
    assert not list(tmp_path.iterdir())


def test_command_keeps_what_a_broken_step_leaves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One step is right, one raises half-way, one hangs: each has its part of the file, and the command fails."""
    (tmp_path / "broken_steps.py").write_text(
        "import time\n"
        "def raises(report, plan):\n    report.add('before', value=1)\n    raise RuntimeError('the GPU is on fire')\n"
        "def hangs(report, plan):\n    report.add('before', value=2)\n    time.sleep(600)\n"
    )
    steps = {
        "environment": gpu.STEPS["environment"],
        "peers": gpu.Step("broken_steps:raises", 60),
        "stream": gpu.Step("broken_steps:hangs", 15),
    }
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    results = {name: gpu.run_step(step, step.seconds, ["--rehearse"]) for name, step in steps.items()}
    assert results["environment"]["ok"] and results["environment"]["values"]["torch"] == torch.__version__
    assert not results["peers"]["ok"] and results["peers"]["values"] == {"before": 1}
    assert "the GPU is on fire" in results["peers"]["error"]
    assert "not done after 15 s" in results["stream"]["error"] and not results["stream"]["ok"]
    whole = {"steps": results, "summary": summary(results), "rehearsal": True}
    assert "fire" in show_step("peers", results["peers"]) and "not measured" in table(whole)


def test_tune_finds_the_faster_of_what_is_right(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A candidate that is wrong, one that can't be launched, one that takes longer and one that doesn't."""
    launch = import_module("rtlit_kernels.launch").Launch
    module = types.ModuleType("rtlit_kernels.fake")
    module.pick = lambda: launch(num_warps=4, num_stages=3)
    monkeypatch.setitem(sys.modules, "rtlit_kernels.fake", module)
    seen = []

    class Cases(KernelCases):
        def check(self, name: str) -> dict[str, Any]:
            if module.pick().num_warps == 16:
                raise RuntimeError("too many resources requested for launch")
            return {"ok": module.pick().num_warps != 1}

        def _call(self, name: str) -> Any:
            def call() -> None:
                seen.append(module.pick())
                time.sleep(0.001 * module.pick().num_warps)

            return call, list

    monkeypatch.setattr("bench.gpu_cases.KernelCases", Cases)
    first = tune.Choices("fake", "pick", "", {"num_warps": (1, 2, 8, 16)})
    second = tune.Choices("fake", "pick", "", {"num_stages": (1, 2)})
    monkeypatch.setitem(tune.SEARCHES, "apply_curves", [first, second])
    tune.tune(PLAN, ["apply_curves"], ["1080p"], "nv12")
    printed = capsys.readouterr().out
    assert "2 right of those tried" in printed
    assert "Launch(num_warps=2, num_stages=3)  # apply_curves, 1080p" in printed
    assert {(at.num_warps, at.num_stages) for at in seen} == {(4, 3), (2, 3), (8, 3), (2, 1), (2, 2)}
    assert module.pick().num_warps == 4, "as it was"


@pytest.mark.parametrize("kernel", tune.SEARCHES)
def test_tune_varies_what_there_is(kernel: str) -> None:
    """Names of modules, of what picks, and of fields are those of the kernels."""
    cases = KernelCases(PLAN, FORMATS["nv12"], PLAN.sizes["720p"])
    for choices in tune.SEARCHES[kernel]:
        now = tune.picked(choices, cases, kernel)
        for values in choices.combinations():
            assert replace(getattr(now, choices.part) if choices.part else now, **values)
        assert eval(tune.paste(choices, now), vars(import_module("rtlit_kernels.launch")))
