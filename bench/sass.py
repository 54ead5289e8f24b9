"""Machine instructions a pixel of `apply_curves`, counted offline: no GPU is needed.

    PYTHONPATH=kernels:. python bench/sass.py [sm]

Compiles each variant (sm 90 by default), disassembles it with the nvdisasm that comes with Triton, and counts the three
parts of the kernel: before the loop (once a program), the table (from the loop's start to its second barrier) and the
pixels (the rest of the loop).
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget

from rtlit_kernels.apply import VARIANTS

_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
# Issue slots of an SM sub-partition serve all of these; ALU, MUFU and LSU have 16, 4 and 8 lanes for 32 threads.
_CLASSES = {
    "FMA": "FFMA FADD FMUL IMAD HFMA2",
    "ALU": "IADD3 LOP3 PRMT SHF LEA FMNMX ISETP FSETP SEL VIMNMX VIADDMNMX I2FP MOV",
    "MUFU": "MUFU F2I I2F",
    "LSU": "LDG STG LDC",
}


def disassemble(cubin: bytes) -> tuple[list[str], dict[str, int]]:
    """Instructions, and at which of them each label stands."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([_TOOLS / "nvdisasm", "-c", file.name], capture_output=True, text=True, check=True).stdout
    instructions: list[str] = []
    labels = {}
    for line in text.splitlines():
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            labels[label[1]] = len(instructions)
        if instruction := re.search(r"/\*[0-9a-f]{4,}\*/\s+(.*?);", line):
            instructions.append(instruction[1])
    return instructions, labels


def parts(instructions: list[str], labels: dict[str, int]) -> tuple[list[str], list[str], list[str]]:
    """Instructions before the loop of the two barriers, up to the second barrier, and to the loop's end."""
    barriers = [n for n, text in enumerate(instructions) if "BAR.SYNC" in text]
    for end, text in enumerate(instructions):
        jump = re.search(r"BRA[^`]*`\((\.L_x_\d+)\)", text)
        start = labels.get(jump[1], len(instructions)) if jump else len(instructions)
        if start <= barriers[0] < barriers[1] < end:
            return instructions[:start], instructions[start : barriers[1]], instructions[barriers[1] : end]
    raise ValueError("no loop around the barriers")


def main(sm: int) -> None:
    """Prints a line a variant."""
    print(f"sm_{sm}, triton {triton.__version__}; instructions a pixel of the loop, by class")
    for variant in VARIANTS:
        values = variant.constexprs
        threads = 32 * variant.launch.num_warps
        pixels = values["BLOCK"] * (1 << values["SHIFT_Y"] + values["SHIFT_X"]) // threads
        kernel = variant.compile(GPUTarget("cuda", sm, 32))
        before, table, body = parts(*disassemble(kernel.asm["cubin"]))
        counts = Counter(re.sub(r"^@!?U?P\w+\s+", "", text).split()[0].split(".")[0] for text in table + body)
        classes = {key: sum(counts.pop(name, 0) for name in names.split()) for key, names in _CLASSES.items()}
        classes["other"] = counts.total()
        shown = ", ".join(f"{key} {count / pixels:.1f}" for key, count in classes.items())
        print(
            f"{variant.name:20} pixels {len(body) / pixels:5.1f}, table {len(table) / pixels:4.1f}, "
            f"before the loop {len(before)} a thread ({shown})"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 90)
