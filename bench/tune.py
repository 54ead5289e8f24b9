"""Tries launch configurations of each kernel on a GPU, and prints what kernels/rtlit_kernels/launch.py should hold.

    python bench/tune.py [apply_curves …] [--size 1080p --size 4K] [--format nv12]

Every candidate is checked against the reference before it is timed: one that doesn't compile, or gives something else,
is passed over. It prints the best few of each kernel and size with what they would gain over the configuration that
`launch.py` picks now; nothing is written anywhere, and nothing tunes itself where rtlit runs.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [path for path in (str(ROOT), str(ROOT / "kernels")) if path not in sys.path]

SHOWN = 5


@dataclass(frozen=True)
class Choices:
    """What may be varied of a kernel.

    Attributes:
        module, picker: where the launcher asks for its configuration.
        part: the field of what the picker gives that is varied; "" for all of it.
        values: field → what to try; all combinations are tried.
    """

    module: str
    picker: str
    part: str
    values: dict[str, tuple[Any, ...]]

    def combinations(self) -> list[dict[str, Any]]:
        """Fields to replace, combination by combination."""
        return [dict(zip(self.values, each, strict=True)) for each in itertools.product(*self.values.values())]


WARPS = (1, 2, 4, 8)
# Kernel → one search after the other, each from the best of the one before.
SEARCHES = {
    "apply_curves": [
        # Fewer cells than a step touches would be wrong, and are found to be.
        Choices("apply", "apply_launch", "", {"block": (128, 256, 512, 1024), "num_warps": WARPS, "cells": (4, 8, 16)}),
    ],
    "analyze": [
        Choices("analyze", "analyze_launch", "", {"rows": (4, 8, 16, 32), "num_warps": WARPS}),
    ],
    "filter_planes": [
        Choices("denoise", "filter_launch", "", {"rows": (8, 16, 32), "columns": (64, 128, 256), "num_warps": WARPS}),
    ],
    "estimate": [
        Choices(
            "estimate",
            "network_launch",
            "conv",
            {"cells": (16, 32), "features": (16, 32, 64), "num_warps": (1, 2, 4), "num_stages": (2, 3, 5)},
        ),
        Choices(
            "estimate", "network_launch", "stem", {"cells": (16, 32, 64), "features": (32, 64), "num_warps": WARPS}
        ),
        Choices(
            "estimate", "network_launch", "tail", {"cells": (16, 32), "statistics": (128, 256), "num_warps": (4, 8)}
        ),
    ],
}


@contextmanager
def overridden(choices: Choices, values: dict[str, Any]) -> Iterator[None]:
    """Launchers are given the picked configuration with some fields replaced."""
    module = import_module(f"rtlit_kernels.{choices.module}")
    pick = getattr(module, choices.picker)

    def altered(*arguments: Any, **named: Any) -> Any:
        picked = pick(*arguments, **named)
        if not choices.part:
            return replace(picked, **values)
        return replace(picked, **{choices.part: replace(getattr(picked, choices.part), **values)})

    setattr(module, choices.picker, altered)
    try:
        yield
    finally:
        setattr(module, choices.picker, pick)


def search(cases: Any, kernel: str, choices: Choices, meter: Any) -> list[tuple[float, dict[str, Any]]]:
    """(median µs, fields) of all candidates that are right, fastest first; {} is what is picked now."""
    found = []
    for values in [{}, *choices.combinations()]:
        with overridden(choices, values):
            try:
                if not cases.check(kernel)["ok"]:
                    continue
                found.append((meter.rotated(cases.calls(kernel, meter.sets(cases.bytes_moved(kernel)))).median, values))
            except Exception as error:  # too much shared memory, a shape that Triton refuses
                if "illegal" in str(error) or "misaligned" in str(error):
                    raise  # the context is lost: nothing that follows would be right
                if not values:
                    raise
    return sorted(found, key=lambda row: row[0])


def show(kernel: str, choices: Choices, size: str, rows: list[tuple[float, dict[str, Any]]]) -> str:
    """The best rows, and the one that is picked now."""
    (now,) = (time for time, values in rows if not values)
    lines = [f"# {kernel} {choices.part}, {size}: picked now {now:.2f} µs; {len(rows) - 1} right of those tried"]
    for time, values in rows[:SHOWN]:
        written = ", ".join(f"{name}={value}" for name, value in values.items()) or "as it is"
        lines.append(f"#   {time:8.2f} µs  {now / time:5.2f} ×  {written}")
    return "\n".join(lines)


def paste(choices: Choices, picked: Any) -> str:
    """A configuration as Python."""
    launch = getattr(picked, choices.part) if choices.part else picked
    arguments = ", ".join(f"{field.name}={getattr(launch, field.name)!r}" for field in fields(launch))
    return f"{type(launch).__name__}({arguments})"


def tune(plan: Any, kernels: list[str], sizes: list[str], pixel_format: str) -> None:
    """Search, and print."""
    from bench.gpu_cases import FORMATS, KernelCases
    from bench.gpu_timing import Meter

    meter = Meter(plan.device, plan.samples)
    for size in sizes:
        cases = KernelCases(plan, FORMATS[pixel_format], plan.sizes[size])
        for kernel in kernels:
            with ExitStack() as so_far:
                for choices in SEARCHES[kernel]:
                    rows = search(cases, kernel, choices, meter)
                    so_far.enter_context(overridden(choices, rows[0][1]))
                    print(show(kernel, choices, size, rows))
                    print(f"{paste(choices, picked(choices, cases, kernel))}  # {kernel}, {size}", flush=True)


def picked(choices: Choices, cases: Any, kernel: str) -> Any:
    """What the launcher is given now."""
    module = import_module(f"rtlit_kernels.{choices.module}")
    pick, given = getattr(module, choices.picker), []

    def watched(*arguments: Any, **named: Any) -> Any:
        given.append(pick(*arguments, **named))
        return given[-1]

    setattr(module, choices.picker, watched)
    try:
        cases.calls(kernel, 1)[0]()
    finally:
        setattr(module, choices.picker, pick)
    return given[-1]


def main(argv: list[str] | None = None) -> int:
    """2 without a GPU."""
    from bench.gpu_cases import FORMATS, Plan

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kernels", nargs="*", help=f"of {', '.join(SEARCHES)}; all of them by default")
    parser.add_argument("--size", action="append", choices=Plan.make().sizes)
    parser.add_argument("--format", default="nv12", choices=FORMATS)
    arguments = parser.parse_args(argv)
    if unknown := set(arguments.kernels) - set(SEARCHES):
        parser.error(f"no kernel {', '.join(sorted(unknown))}; there are {', '.join(SEARCHES)}")
    import torch

    if not torch.cuda.is_available():
        print("torch finds no CUDA device; configurations are tuned on a GPU", file=sys.stderr)
        return 2
    tune(Plan.make(), arguments.kernels or list(SEARCHES), arguments.size or ["1080p", "4K"], arguments.format)
    return 0


if __name__ == "__main__":
    sys.exit(main())
