"""The steps of bench/gpu.py that say whether results are right, and what the machine is."""

from __future__ import annotations

import copy
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np
import torch
import triton
from numpy.typing import NDArray
from torch import Tensor

from bench.gpu_cases import (
    COLOR,
    FORMATS,
    FPS,
    Plan,
    clip,
    codes_on_host,
    enlarged,
    make_engine,
    on_host,
    play,
)
from rtlit import reference
from rtlit.denoise import BITS, filter_planes
from rtlit.frame import PixelFormat
from rtlit.settings import EnhanceSettings

if TYPE_CHECKING:
    from bench.gpu import Report

ROOT = Path(__file__).resolve().parent.parent
# Half precision moves t by up to 0.02, which moves a tone in the middle by a quarter of that: 1.3 codes of 8 bits.
WORST_CODES = 2
SANITIZER = "/usr/local/cuda/bin/compute-sanitizer"
_CLOCKS = "--query-gpu=name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,power.draw,power.limit"

_COLD_START = """
import json, sys, time
began, device, height, width = float(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
python = time.time()
import numpy as np
from rtlit.enhancer import Enhancer
from rtlit.frame import Color, PixelFormat
imported = time.time()
enhancer = Enhancer(device)
made = time.time()
shapes = [PixelFormat("yuv420p").plane_size(index, height, width) for index in range(3)]
planes = tuple(np.full(shape, 90, np.uint8) for shape in shapes)
seconds = []
for index in range(3):
    start = time.time()
    enhancer.enhance_planes(planes, PixelFormat("yuv420p"), Color(), index / 30, tuple(map(np.empty_like, planes)))
    seconds.append(round(time.time() - start, 4))
total = time.time() - began - sum(seconds[1:])
parts = {"total_s": total, "python_s": python - began, "imports_s": imported - python, "enhancer_s": made - imported}
print(json.dumps({**{name: round(value, 3) for name, value in parts.items()}, "frames_s": seconds,
                  "backend": enhancer.backend_name}))
"""


def environment(report: Report, plan: Plan) -> None:
    """What the machine is, and what runs on it."""
    report.add("sizes", value={name: list(size) for name, size in plan.sizes.items()})
    report.add("samples", value=plan.samples)
    report.add("python", value=platform.python_version())
    report.add("system", value=platform.platform())
    report.add("cores", value=len(os.sched_getaffinity(0)))
    report.add("torch", value=torch.__version__)
    report.add("triton", value=triton.__version__)
    report.add("cuda", value=torch.version.cuda)
    if plan.rehearsal:
        return
    properties = torch.cuda.get_device_properties(plan.device)
    report.add(
        "gpu",
        value={
            "name": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "memory_bytes": properties.total_memory,
            "cache_bytes": properties.L2_cache_size,
        },
    )
    report.attempt("nvidia_smi", make=lambda: _output(["nvidia-smi", _CLOCKS, "--format=csv"]).splitlines())
    report.attempt("clocks", make=lambda: _output(["nvidia-smi", "-q", "-d", "CLOCK,POWER,PERFORMANCE"]).splitlines())


def engine(report: Report, plan: Plan) -> None:
    """The engine against the reference on a real clip with a cut, and its graphs against plain launches."""
    # TF32 would be the reference's own error; the engine's network has 11 bits too, but says so.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    cases = [("nv12", "1080p", 0.0), ("yuv420p", "720p", 0.5), ("p010le", "1080p", 0.0)]
    for name, size, denoise in cases[1:2] if plan.rehearsal else cases:
        report.attempt(
            f"{size} {name}, denoise {denoise:g}",
            make=partial(_compared, plan, FORMATS[name], plan.sizes[size], denoise),
        )


def _compared(plan: Plan, pixel_format: PixelFormat, size: tuple[int, int], denoise: float) -> dict[str, Any]:
    """The clip, then the clip upside down and negative: a cut."""
    first = 2 if plan.rehearsal else None
    frames, seconds = clip()[0][:first], clip()[1][:first]
    frames = [*frames, *(tuple(255 - plane.flip(0) for plane in frame) for frame in frames)]
    seconds = [*seconds, *(time + seconds[-1] + 1 / FPS for time in seconds)]
    codes = [enlarged(frame, pixel_format, size) for frame in frames[: 3 if plan.rehearsal else None]]
    sources = [on_host(frame, pixel_format) for frame in codes]
    by_graph, plain = (
        play(make_engine(plan, denoise=denoise, graphs=graphs), sources, pixel_format, seconds=seconds)
        for graphs in (True, False)
    )
    alike = all(np.array_equal(a, b) for pair in zip(by_graph, plain, strict=True) for a, b in zip(*pair, strict=True))
    worst, beyond, total, count = 0, 0, 0.0, 0
    wanted = reference_video(plan, codes, seconds, pixel_format, denoise)
    for result, expected in zip(by_graph, wanted, strict=True):
        for got, want in zip(codes_on_host(result, pixel_format), expected, strict=True):
            off = np.abs(got - want)
            worst, beyond = max(worst, int(off.max())), beyond + int((off > 1 << (pixel_format.depth - 8)).sum())
            total, count = total + float(off.sum()), count + off.size
    share = beyond / count
    return {
        "ok": alike and worst <= WORST_CODES << (pixel_format.depth - 8) and share < 0.001,
        "graph_is_plain_to_the_bit": alike,
        "frames": len(codes),
        "worst_codes": worst,
        "mean_codes": round(total / count, 5),
        "share_beyond_one_8_bit_code": share,
    }


def reference_video(
    plan: Plan, codes: list[list[Tensor]], seconds: list[float], pixel_format: PixelFormat, denoise: float
) -> Iterator[list[NDArray[np.int32]]]:
    """What the reference makes of a clip, frame by frame, as plain codes."""
    device, net = plan.device, copy.deepcopy(plan.network).to(plan.device)
    plain = PixelFormat("yuv420p" if pixel_format.depth == 8 else f"yuv420p{pixel_format.depth}le")
    unit, tau = 2.0 ** (plain.depth - BITS), EnhanceSettings.smoothing
    grid, last_histogram, state = torch.empty(0), None, None
    for index, frame in enumerate(codes):
        planes = [plane.to(device) for plane in frame]
        with torch.inference_mode():
            thumbnail, histogram = reference.analyze(planes, plain, COLOR, net.config.thumbnail_size(*planes[0].shape))
            estimate = net.estimate(thumbnail[None])[0]
            cut = last_histogram is None or bool(reference.is_cut(histogram, last_histogram))
            if last_histogram is not None:
                elapsed = seconds[index] - seconds[index - 1]
                estimate = reference.smooth(estimate, histogram, grid, last_histogram, elapsed, tau)
            grid, last_histogram = estimate, histogram
            filtered = None
            if denoise:
                state = filter_planes(planes, None if cut else state, plain, denoise)
                filtered = [plane * unit for plane in state]
            gain = reference.exponentiate(grid, 1.0)
            lifted = reference.apply_curves(planes, gain, plain, COLOR, rounded=False, filtered=filtered)
            rounded = [(plane + 0.5).floor().clamp(0, plain.max_code) for plane in lifted]
        yield [plane.to(torch.int32).cpu().numpy() for plane in rounded]


def tests(report: Report, plan: Plan) -> None:
    """The kernels' tests, compiled for the GPU, and the engine's; test_compile needs none, so it is left out."""
    paths = ["tests/test_settings.py"] if plan.rehearsal else ["tests/kernels", "tests/test_cuda_engine.py"]
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "junit.xml"
        command = [sys.executable, "-m", "pytest", *paths, "--ignore=tests/kernels/test_compile.py", "-q"]
        # Without addopts and filterwarnings, so that a pytest without the timeout plugin takes pyproject.toml.
        command += ["-o", "addopts=", "-o", "filterwarnings=default", "-p", "no:cacheprovider"]
        command += ["--continue-on-collection-errors", f"--junitxml={results}"]
        if find_spec("xdist") and not plan.rehearsal:
            command += ["-n", "6"]  # compiling is what takes long
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        report.add("output", value=done.stdout[-4000:].splitlines())
        if not results.exists():
            report.add(
                "pytest", value={"error": f"exit code {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"}
            )
            return
        report.add("pytest", value=_counts(results))


def _counts(junit: Path) -> dict[str, Any]:
    suite = next(ElementTree.parse(junit).getroot().iter("testsuite"))
    failed = {}
    for case in suite.iter("testcase"):
        for problem in [*case.findall("failure"), *case.findall("error")]:
            failed[f"{case.get('classname')}::{case.get('name')}"] = (problem.text or "")[-1500:]
    counts = {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
    enough = counts["tests"] > counts["skipped"]
    return {"ok": enough and not counts["failures"] and not counts["errors"], **counts, "failed": failed}


def cold_start(report: Report, plan: Plan) -> None:
    """From a process's start to its first 1080p frame: with no kernels in the cache, then with them."""
    with tempfile.TemporaryDirectory() as cache:
        environment = _environment(TRITON_CACHE_DIR=cache)
        size = [str(side) for side in plan.sizes["1080p"]]

        def start() -> Any:
            command = [sys.executable, "-c", _COLD_START, str(time.time()), plan.device.type, *size]
            return json.loads(_output(command, environment).splitlines()[-1])

        report.attempt("empty_cache", make=start)
        report.attempt("warm_cache", make=start)


def sanitizer(report: Report, plan: Plan) -> None:
    """Every kernel and a few frames of the engine under memcheck and racecheck, where there is a compute-sanitizer."""
    tool = shutil.which("compute-sanitizer") or (SANITIZER if Path(SANITIZER).exists() else None)
    if tool is None:
        report.add("skipped", value=f"compute-sanitizer is neither on the PATH nor {SANITIZER}")
        return
    code = "from bench.gpu_cases import Plan; from bench.gpu_steps import exercise; exercise(Plan.make())"
    # One allocation a tensor: inside torch's pool, a write past the end of one would hit another's memory unseen.
    environment = _environment(PYTORCH_NO_CUDA_MEMORY_CACHING="1")
    for check in ("memcheck", "racecheck"):
        options = f"--tool {check} --error-exitcode 77 --print-limit 20".split()
        command = ["timeout", "55", tool, *options, sys.executable, "-c", code]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        output = (done.stdout + done.stderr)[-4000:].splitlines()
        if any("SUMMARY" in line for line in output):
            report.add(check, value={"ok": done.returncode == 0, "exit_code": done.returncode, "output": output})
        else:  # it doesn't work on every virtual machine
            why = "not done after 55 s" if done.returncode == 124 else "it gave no summary"
            report.add(check, value={"skipped": why, "output": output})


def _environment(**more: str) -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(ROOT), str(ROOT / "kernels"), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, **more}


def _output(command: list[str], environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command[0]}: exit code {done.returncode}\n{(done.stdout + done.stderr)[-3000:]}")
    return done.stdout
