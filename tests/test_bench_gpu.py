"""bench/gpu.py on the CPU: the steps that a GPU will run, in Triton's interpreter and at tiny sizes; and the peers."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported, which flop_counter does too
pytest.importorskip("triton", reason=f"no triton for {sys.platform}")

from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from bench import gpu, gpu_checks, gpu_steps  # noqa: E402
from bench.gpu_cases import FORMATS, KernelCases, Plan, clip, host_frames  # noqa: E402
from bench.gpu_report import TARGETS, summary  # noqa: E402
from bench.gpu_timing import Meter, Times  # noqa: E402
from bench.peers import PEERS, FramePeer  # noqa: E402

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


def test_targets_lie_where_steps_put_them() -> None:
    values: dict[str, Any] = {}
    for target in TARGETS:
        at = values
        for name in target.path[:-1]:
            at = (
                at.setdefault(name, {} if at is not values else {"values": {}})
                if at is not values
                else at.setdefault(name, {"values": {}})["values"]
            )
        at[target.path[-1]] = target.limit
    rows = summary(values)
    assert [row["met"] for row in rows] == [True] * len(TARGETS)
    assert [row["measured"] for row in summary({})] == [None] * len(TARGETS)
    assert {target.path[0] for target in TARGETS} <= set(gpu.STEPS)


@pytest.mark.parametrize("name", KernelCases.names)
@pytest.mark.parametrize("pixel_format", ["nv12", "p010le"])
def test_kernels_are_checked_against_the_reference(name: str, pixel_format: str) -> None:
    cases = KernelCases(PLAN, FORMATS[pixel_format], PLAN.sizes["1080p"])
    checked = cases.check(name)
    assert checked["ok"], checked
    assert cases.bytes_moved(name) > 0


def test_a_wrong_kernel_is_found(monkeypatch: pytest.MonkeyPatch, report: gpu.Report) -> None:
    """A kernel that gives something else is neither timed nor passed."""
    cases = KernelCases(PLAN, FORMATS["nv12"], PLAN.sizes["1080p"])
    monkeypatch.setattr(cases, "grid", cases.grid + 0.1)
    assert not cases.check("estimate")["ok"]


def test_step_engine(report: gpu.Report) -> None:
    gpu_checks.engine(report, PLAN)
    assert gpu.failures(report.values) == [], report.values
    assert all(row["frames"] == 12 and row["graph_is_plain_to_the_bit"] for row in report.values.values())


@pytest.mark.parametrize("name", ["machine", "frames", "kernels", "peers", "compiled_peers", "stream", "changes"])
def test_step(name: str, report: gpu.Report) -> None:
    getattr(gpu_steps, name)(report, PLAN)
    assert gpu.failures(report.values) == [], report.values
    assert report.values
