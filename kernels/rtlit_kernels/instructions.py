"""Instructions that Triton has no name for, as PTX; and what they do, in Triton, for AMD's GPUs and the interpreter.

Each function's ASM says whether to use PTX (NVIDIA, compute capability ≥ 7.5).
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def saturated(a, b, c, ASM: tl.constexpr):
    """a·b + c, clamped to 0 … 1."""
    if ASM:
        return tl.inline_asm_elementwise("fma.rn.sat.f32 $0, $1, $2, $3;", "=f,f,f,f", [a, b, c], tl.float32, True, 1)
    return tl.minimum(tl.maximum(a * b + c, 0.0), 1.0)


@triton.jit
def inverse(x, ASM: tl.constexpr):
    """1 / x within 1 ulp; Triton's division takes four instructions, to allow for x beyond 2^126."""
    if ASM:
        return tl.inline_asm_elementwise("rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, True, 1)
    return 1.0 / x


@triton.jit
def split(x, steps, ASM: tl.constexpr):
    """Integer part of x·steps, 0 … 2^22, plus `bias`; and the fractional part."""
    if ASM:
        magic = tl.inline_asm_elementwise(
            "fma.rm.f32 $0, $1, $2, 0f4B400000;", "=f,f,f", [x, steps], tl.float32, True, 1
        )  # fmt: skip
        return magic.to(tl.int32, bitcast=True), tl.fma(x, steps, 12582912.0 - magic)
    whole = tl.floor(x * steps)
    return whole.to(tl.int32), x * steps - whole


@triton.constexpr_function
def bias(asm: bool) -> int:
    return 0x4B400000 if asm else 0


@triton.constexpr_function
def _unpack_asm(bits: int, item: int, at: int) -> str:
    """2^23 | code of each of the elements in a register."""
    starts = [(bits * n + item * at) // 8 for n in range(32 // bits)]
    selectors = [0x7440 + start if item == 8 else 0x7400 + start * 17 + 16 for start in starts]
    return " ".join(f"prmt.b32 ${n}, ${len(starts)}, 0x4B000000, {bytes};" for n, bytes in enumerate(selectors))


@triton.constexpr_function
def _unpack_constraints(bits: int) -> str:
    return "=&r," * (32 // bits) + "r"


@triton.jit
def decode(words, at: tl.constexpr, scale, ITEM: tl.constexpr, LOW_BITS: tl.constexpr, ASM: tl.constexpr):
    """Number `at` of the codes of ITEM bits in each word, times `scale`."""
    if ASM:
        bits: tl.constexpr = words.dtype.primitive_bitwidth
        if LOW_BITS:
            mask: tl.constexpr = 0x10000 - (1 << LOW_BITS)
            words = words & (mask * 0x10001 - (1 << 32) if bits == 32 else mask)
        number = tl.inline_asm_elementwise(
            _unpack_asm(bits, ITEM, at), _unpack_constraints(bits), [words], tl.int32, True, 32 // bits
        )  # fmt: skip
        # Exact: 2^23·scale is a number, and the product of a fused multiply-add isn't rounded.
        return tl.fma(number.to(tl.float32, bitcast=True), scale, -8388608.0 * scale)
    return ((words.to(tl.int32) >> (ITEM * at)) & ((1 << ITEM) - (1 << LOW_BITS))).to(tl.float32) * scale


@triton.jit
def encode(value, peak):
    """A clamped value's code, in the low bits; there is more above them."""
    return (value * peak + 8388608.0).to(tl.int32, bitcast=True)


@triton.jit
def join(first, second, ITEM: tl.constexpr, ASM: tl.constexpr):
    """Two words of ITEM bits as one."""
    if not ASM:
        word = (first & ((1 << ITEM) - 1)) | (second << ITEM)
    elif ITEM == 8:
        word = tl.inline_asm_elementwise(
            "{ .reg .b32 a, b; prmt.b32 a, $1, $3, 0x40; prmt.b32 b, $2, $4, 0x40; prmt.b32 $0, a, b, 0x5410; }",
            "=r,r,r,r,r", [first, second], tl.int16, True, 2,
        )  # fmt: skip
    else:
        word = tl.inline_asm_elementwise("prmt.b32 $0, $1, $2, 0x5410;", "=r,r,r", [first, second], tl.int32, True, 1)
    return word


@triton.jit
def load_four(at, ASM: tl.constexpr):
    if ASM:
        return tl.inline_asm_elementwise(
            "ld.global.v4.f32 {$0, $1, $2, $3}, [$4];", "=f,=f,=f,=f,l", [at.to(tl.int64)],
            (tl.float32, tl.float32, tl.float32, tl.float32), False, 1,
        )  # fmt: skip
    return tl.load(at), tl.load(at + 1), tl.load(at + 2), tl.load(at + 3)


@triton.jit
def store_four(at, a, b, c, d, ASM: tl.constexpr):
    if ASM:
        tl.inline_asm_elementwise(
            "st.global.v4.f32 [$1], {$2, $3, $4, $5}; mov.b32 $0, 0;", "=r,l,f,f,f,f", [at.to(tl.int64), a, b, c, d],
            tl.int32, False, 1,
        )  # fmt: skip
    else:
        tl.store(at, a)
        tl.store(at + 1, b)
        tl.store(at + 2, c)
        tl.store(at + 3, d)


@triton.constexpr_function
def _fetch_asm(k: int, row: int) -> str:
    """4·K adjacent numbers of the table, of row number `row`."""
    loads = " ".join(
        f"ld.global.v4.f32 {{${i}, ${i + 1}, ${i + 2}, ${i + 3}}}, [a+{row + 4 * i}];" for i in range(0, 4 * k, 4)
    )
    address = f"mad.lo.u32 o, ${4 * k}, {16 * k}, ${4 * k + 1}; cvt.u64.u32 a, o; add.u64 a, a, ${4 * k + 2};"
    return f"{{ .reg .u32 o; .reg .u64 a; {address} {loads} }}"


@triton.constexpr_function
def _fetch_constraints(k: int) -> str:
    return "=&f," * (4 * k) + "r,r,l"


@triton.jit
def excesses(table, column, d, u, f, ROW: tl.constexpr, K: tl.constexpr, ASM: tl.constexpr):
    """F = gain − 1 of each channel, between two cells and two tones."""
    if ASM:
        if K == 3:
            v0, x0, z0, b0, v1, x1, z1, b1, v2, x2, z2, b2 = tl.inline_asm_elementwise(
                _fetch_asm(3, ROW), _fetch_constraints(3), [d, column * (16 * K), table.to(tl.int64)],
                (tl.float32, tl.float32, tl.float32, tl.float32, tl.float32, tl.float32, tl.float32, tl.float32,
                 tl.float32, tl.float32, tl.float32, tl.float32), False, 1,
            )  # fmt: skip
        else:
            v0, x0, z0, b0 = tl.inline_asm_elementwise(
                _fetch_asm(1, ROW), _fetch_constraints(1), [d, column * (16 * K), table.to(tl.int64)],
                (tl.float32, tl.float32, tl.float32, tl.float32), False, 1,
            )  # fmt: skip
    else:
        at = table + ROW // 4 + (column + d) * (4 * K)
        v0, x0, z0, b0 = tl.load(at), tl.load(at + 1), tl.load(at + 2), tl.load(at + 3)
        if K == 3:
            v1, x1, z1, b1 = tl.load(at + 4), tl.load(at + 5), tl.load(at + 6), tl.load(at + 7)
            v2, x2, z2, b2 = tl.load(at + 8), tl.load(at + 9), tl.load(at + 10), tl.load(at + 11)
    r = tl.fma(f, tl.fma(u, b0, z0), tl.fma(u, x0, v0))
    g, b = r, r  # no second return: Triton compiles what follows a return, too
    if K == 3:
        g = tl.fma(f, tl.fma(u, b1, z1), tl.fma(u, x1, v1))
        b = tl.fma(f, tl.fma(u, b2, z2), tl.fma(u, x2, v2))
    return r, g, b
