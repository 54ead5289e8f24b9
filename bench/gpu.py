"""One command that tests and measures rtlit on a GPU within 8 minutes; needs torch, triton, numpy, pytest, no PyAV.

    python bench/gpu.py -o bench/results/NAME.json             everything
    python bench/gpu.py -o bench/results/NAME.json --quick     a first look: results right, 1080p, in about a minute
    python bench/gpu.py -o FILE.json --only frames --only peers

Each step is a process of its own with a time limit, so that one that fails, hangs or breaks the device's context costs
its own results alone, and its traceback is one of the results. The file is written after every step.
`bench/gpu_steps.py` and `bench/gpu_checks.py` hold the steps; --rehearse runs them on a CPU, in Triton's interpreter
and at tiny sizes, where times mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [path for path in (str(ROOT), str(ROOT / "kernels")) if path not in sys.path]

SCHEMA = 1
TOTAL_SECONDS = 470.0
REHEARSAL = 10  # times as long for everything: the interpreter takes seconds a frame


@dataclass(frozen=True)
class Step:
    """A part of the benchmark.

    Attributes:
        where: "module:function" of what runs; it takes a Report and a Plan.
        seconds: its time limit.
        quick: whether --quick runs it too.
    """

    where: str
    seconds: float
    quick: bool = False


# What tells most for its time comes first: what is left when the time is up, or somebody's patience, is left out.
STEPS = {
    "environment": Step("bench.gpu_checks:environment", 30, quick=True),
    "engine": Step("bench.gpu_checks:engine", 90, quick=True),
    "machine": Step("bench.gpu_steps:machine", 30, quick=True),
    "frames": Step("bench.gpu_steps:frames", 60, quick=True),
    "kernels": Step("bench.gpu_steps:kernels", 60, quick=True),
    "peers": Step("bench.gpu_steps:peers", 60),
    "tests": Step("bench.gpu_checks:tests", 150, quick=True),
    "sizes": Step("bench.gpu_steps:sizes", 90),
    "stream": Step("bench.gpu_steps:stream", 45),
    "changes": Step("bench.gpu_steps:changes", 30),
    "cold_start": Step("bench.gpu_checks:cold_start", 90),
    "compiled_peers": Step("bench.gpu_steps:compiled_peers", 90),
    "sanitizer": Step("bench.gpu_checks:sanitizer", 120),
}


class Report:
    """What a step found so far, on disk as soon as it is known."""

    def __init__(self, path: Path | None = None) -> None:
        self.path, self.values = path, dict[str, Any]()

    def add(self, *names: str, value: object) -> None:
        """Note a result under a name, or a name below others."""
        values = self.values
        for name in names[:-1]:
            values = values.setdefault(name, {})
        values[names[-1]] = value
        if self.path:
            _write(self.path, self.values)

    def attempt(self, *names: str, make: Callable[[], object]) -> None:
        """Note what `make` gives, or the traceback of what it raises."""
        try:
            value = make()
        except Exception:
            value = {"error": traceback.format_exc()}
        self.add(*names, value=value)


def run_step(step: Step, limit: float, arguments: list[str]) -> dict[str, Any]:
    """A step in a process of its own, killed with all that it started when its time is up."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        result, log = Path(folder) / "result.json", Path(folder) / "log"
        command = [sys.executable, __file__, "--step", step.where, "-o", str(result), *arguments]
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True, cwd=ROOT
            )
            try:
                code: int | None = process.wait(limit)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        values = json.loads(result.read_text()) if result.exists() else {}
        failed = failures(values)
        done: dict[str, Any] = {
            "ok": code == 0 and not failed,
            "seconds": round(time.monotonic() - began, 1),
            "limit_seconds": round(limit, 1),
            "values": values,
        }
        if code is None:
            done["error"] = f"not done after {limit:.0f} s"
        elif code:
            done["error"] = log.read_text(errors="replace")[-6000:]
        elif failed:
            done["error"] = f"failed: {', '.join(failed)}"
        return done


def failures(values: dict[str, Any], above: str = "") -> list[str]:
    """Names, with dots, of the results that hold an error or a false "ok"."""
    found = []
    for name, value in values.items():
        if isinstance(value, dict):
            if "error" in value or value.get("ok") is False:
                found.append(above + name)
            else:
                found += failures(value, f"{above}{name}.")
    return found


def main(argv: list[str] | None = None) -> int:
    """Exit code 0: every step ran and what it checks is right. 1: something failed. 2: no GPU."""
    arguments = _parse(argv)
    if arguments.step:
        return _be_step(arguments)
    if not arguments.rehearse and not _has_gpu():
        print(
            "torch finds no CUDA device; this benchmark is for GPUs (--rehearse tries it out on a CPU)", file=sys.stderr
        )
        return 2
    from bench.gpu_report import show_step, summary

    chosen = [name for name, step in STEPS.items() if name in (arguments.only or STEPS)]
    if arguments.quick:
        chosen = [name for name in chosen if STEPS[name].quick]
    passed_on = [f"--{name}" for name in ("quick", "rehearse") if getattr(arguments, name)]
    results: dict[str, Any] = {
        "schema": SCHEMA,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "quick": arguments.quick,
        "rehearsal": arguments.rehearse,
        "steps": {},
    }
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a step doesn't outlive this
    patience = REHEARSAL if arguments.rehearse else 1
    began = time.monotonic()
    for name in chosen:
        left = began + patience * arguments.seconds - time.monotonic()
        if left < 5:
            results["steps"][name] = {"ok": False, "seconds": 0.0, "values": {}, "error": "no time left"}
        else:
            results["steps"][name] = run_step(STEPS[name], min(left, patience * STEPS[name].seconds), passed_on)
        print(show_step(name, results["steps"][name]), flush=True)
        results["seconds"] = round(time.monotonic() - began, 1)
        results["summary"] = summary(results["steps"])
        _write(arguments.output, results)
    from bench.gpu_report import table

    print(table(results))
    return 0 if all(step["ok"] for step in results["steps"].values()) else 1


def _be_step(arguments: argparse.Namespace) -> int:
    """Run one step here; 1 if it raised. Each function is imported as late as this, so that a fault stays its own."""
    from importlib import import_module

    report = Report(arguments.output)
    module, _, function = arguments.step.partition(":")
    if arguments.rehearse:
        os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported
    from bench.gpu_cases import Plan

    getattr(import_module(module), function)(report, Plan.make(arguments.quick, arguments.rehearse))
    return 0


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _write(path: Path, values: dict[str, Any]) -> None:
    """All of it or nothing: a reader, or a kill, must not find half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(values, indent=1) + "\n")
    part.replace(path)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON file for the results")
    parser.add_argument("--quick", action="store_true", help="tests and 1080p alone")
    parser.add_argument("--only", action="append", choices=STEPS, help="a step to run; may be given again")
    parser.add_argument("--seconds", type=float, default=TOTAL_SECONDS, help="of all steps (%(default)s)")
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, at tiny sizes")
    parser.add_argument("--step", help=argparse.SUPPRESS)  # module:function, of a process that run_step starts
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
