"""What the PTX of `rtlit_kernels.instructions` does, in NumPy: for Triton's interpreter, which knows no assembly."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from typing import Any

import numpy as np

_SIZES = {"r": np.uint32, "f": np.float32, "l": np.uint64}


def _bits(value: Any) -> Any:
    return np.asarray(value).view(np.uint32)


def _permute(a: Any, b: Any, selector: Any) -> Any:
    """prmt.b32: each nibble of the selector names a byte of b, a."""
    both = _bits(a).astype(np.uint64) | _bits(b).astype(np.uint64) << np.uint64(32)
    starts = [np.uint64(8 * (int(selector) >> 4 * n & 7)) for n in range(4)]
    return sum((both >> start & np.uint64(255)) << np.uint64(8 * n) for n, start in enumerate(starts)).astype(np.uint32)


def fused(a: Any, b: Any, c: Any) -> Any:
    """a·b + c in float64, where the product is exact, and whose rounding is too fine to matter here."""
    return np.float64(a) * np.float64(b) + np.float64(c)


def _round_down(x: Any) -> Any:
    nearest = np.float32(x)
    return np.where(nearest > x, np.nextafter(nearest, np.float32(-np.inf)), nearest).astype(np.float32)


_OPERATIONS: dict[str, Callable[..., Any]] = {
    "prmt.b32": _permute,
    "fma.rn.sat.f32": lambda a, b, c: np.float32(np.clip(fused(a, b, c), 0, 1)),
    "fma.rm.f32": lambda a, b, c: _round_down(fused(a, b, c)),
    "rcp.approx.ftz.f32": lambda a: np.float32(1) / a,
    "mad.lo.u32": lambda a, b, c: (np.uint64(a) * np.uint64(b) + c).astype(np.uint32),
    "cvt.u64.u32": np.uint64,
    "add.u64": lambda a, b: a + b,
    "mov.b32": lambda a: a,
}


def run(asm: str, constraints: str, values: list[Any], kinds: list[Any], pack: int) -> list[Any]:
    """Outputs of a snippet, as arrays of the types `kinds`.

    Args:
        values: arrays of the same size, of which a call takes `pack` elements each.
    """
    letters = [part.strip("=&") for part in constraints.split(",")]
    registers: dict[str, Any] = {}
    outputs = constraints.count("=")
    count = outputs // len(kinds)  # registers an output
    rest = iter(range(outputs, len(letters)))
    for value in values:
        groups = np.ascontiguousarray(value).reshape(-1, pack)
        if value.itemsize < 4:
            words = np.zeros((len(groups), 4 // value.itemsize), value.dtype)
            words[:, :pack] = groups
            groups = words.view(np.uint32)
        for column in groups.T:
            at = next(rest)
            registers[f"${at}"] = np.ascontiguousarray(column).view(_SIZES[letters[at]])
    assert next(rest, None) is None, "an input that nothing is given for"

    def operand(text: str) -> Any:
        if text.startswith("0f"):
            return np.uint32(int(text[2:], 16)).view(np.float32)
        return registers[text] if text in registers else np.uint32(int(text, 0))

    for statement in filter(None, map(str.strip, asm.strip("{} ").split(";"))):
        name, _, tail = statement.partition(" ")
        if name == ".reg":
            continue
        operands = re.findall(r"[$\w.+]+", tail)
        if name in ("ld.global.v4.f32", "st.global.v4.f32"):
            at = next(n for n, text in enumerate(operands) if f"[{text}]" in tail)
            base, _, offset = operands.pop(at).partition("+")
            addresses = registers[base] + np.uint64(int(offset or 0))
            assert not (addresses % 16).any(), "an address that isn't a multiple of 16"
            _move(name, operands, addresses, registers)
        else:
            registers[operands[0]] = _OPERATIONS[name](*map(operand, operands[1:]))
    results = []
    size = values[0].size
    for n, kind in enumerate(kinds):
        columns = [np.broadcast_to(registers[f"${n * count + i}"], size // pack) for i in range(count)]
        flat = np.stack(columns, 1).reshape(-1)
        results.append(np.ascontiguousarray(flat).view(kind).reshape(-1)[:size])
    return results


def _move(name: str, operands: list[str], addresses: Any, registers: dict[str, Any]) -> None:
    if name.startswith("st"):
        for i, address in enumerate(addresses.tolist()):
            ctypes.memmove(address, np.array([registers[text][i] for text in operands], np.float32).tobytes(), 16)
        return
    unique, places = np.unique(addresses, return_inverse=True)
    data = np.stack([np.frombuffer(ctypes.string_at(address, 16), np.float32) for address in unique.tolist()])[places]
    for i, text in enumerate(operands):
        registers[text] = np.ascontiguousarray(data[:, i])
