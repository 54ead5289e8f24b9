"""What each kernel takes of a GPU, found out by compiling it for eight GPUs offline: registers, stack, shared memory.

    python bench/resources.py                          # as Markdown, every kernel
    python bench/resources.py estimate --target sm_90  # of a module, for a target
    python bench/resources.py --json                   # a line for each variant and target

Needs neither GPU nor driver. `cuobjdump`, which comes with Triton, reads NVIDIA's binaries; AMD's say it in their
assembly. Instructions are those of the whole kernel, in SASS, without padding: a program with loops runs more.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from importlib import import_module
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click

TARGETS = ["sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120", "gfx942"]
MODULES = ["analyze", "estimate", "restrain", "smooth", "denoise", "apply"]


@dataclass(frozen=True)
class Resources:
    """What a kernel takes on a target."""

    module: str
    variant: str
    target: str
    threads: int  # a program
    registers: int  # a thread
    ceiling: int  # what the variant allows itself
    stack: int  # bytes a thread: spills, or arrays that are indexed at run time
    shared: int  # bytes a program
    instructions: int
    seconds: float  # to compile


def measure(module: str, target: str) -> Iterator[Resources]:
    """Compile each variant of `rtlit_kernels.<module>` for a target such as "sm_90" or "gfx942"."""
    from triton.backends.compiler import GPUTarget

    architecture = target.removeprefix("sm_")
    gpu = GPUTarget("cuda", int(architecture), 32) if architecture.isdigit() else GPUTarget("hip", target, 64)
    capability = gpu.arch if gpu.backend == "cuda" else 94  # as torch counts gfx942
    for variant in import_module(f"rtlit_kernels.{module}").VARIANTS:
        if capability not in variant.capabilities:
            continue
        began = time.perf_counter()
        kernel = variant.compile(gpu)
        seconds = time.perf_counter() - began
        registers, stack, instructions = _read_cuda(kernel) if gpu.backend == "cuda" else _read_hip(kernel)
        shared = kernel.metadata.shared
        threads = variant.launch.num_warps * gpu.warp_size
        costs = threads, registers, variant.registers, stack, shared, instructions, round(seconds, 2)
        yield Resources(module, variant.name, target, *costs)


def _measured(module_and_target: tuple[str, str]) -> list[Resources]:
    return list(measure(*module_and_target))


def _read_cuda(kernel: Any) -> tuple[int, int, int]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(kernel.asm["cubin"])
        cubin.flush()
        usage = _cuobjdump("--dump-resource-usage", cubin.name)
        sass = _cuobjdump("--dump-sass", cubin.name)
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert found, usage
    opcodes = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z]\w*)", sass, re.MULTILINE)
    return int(found[1]), int(found[2]), sum(opcode != "NOP" for opcode in opcodes)


def _cuobjdump(option: str, path: str) -> str:
    import triton

    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    return subprocess.run([tool, option, path], capture_output=True, text=True, check=True).stdout


def _read_hip(kernel: Any) -> tuple[int, int, int]:
    text = kernel.asm["amdgcn"]
    notes = {name: int(value) for name, value in re.findall(r"\.(\w+):\s+(\d+)$", text, re.MULTILINE)}
    instructions = re.findall(r"^\t[sv]_(?!nop)|^\t(?:buffer|global|flat|ds)_", text, re.MULTILINE)
    stack = notes["private_segment_fixed_size"] + notes["vgpr_spill_count"]
    return notes["vgpr_count"], stack, len(instructions)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("modules", nargs=-1, type=click.Choice(MODULES))
@click.option("--target", "targets", multiple=True, type=click.Choice(TARGETS), help="GPU; all if not given")
@click.option("--json", "as_json", is_flag=True, help="a line of JSON each")
def main(modules: tuple[str, ...], targets: tuple[str, ...], as_json: bool) -> None:
    """Print what the kernels of MODULES take."""
    work = list(product(modules or MODULES, targets or TARGETS))
    with ProcessPoolExecutor(min(len(work), os.cpu_count() or 1), get_context("spawn")) as pool:
        rows = [row for found in pool.map(_measured, work) for row in found]
    if as_json:
        for row in rows:
            print(json.dumps(asdict(row)))
        return
    print("| kernel | target | registers | stack | shared | instructions |\n|---|---|---:|---:|---:|---:|")
    for row in sorted(rows, key=lambda row: (MODULES.index(row.module), row.variant, TARGETS.index(row.target))):
        cells = row.registers, row.stack, row.shared, row.instructions
        print(f"| {row.module} {row.variant} | {row.target} | {' | '.join(map(str, cells))} |")


if __name__ == "__main__":
    main()
