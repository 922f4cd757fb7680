# SPDX-License-Identifier: Apache-2.0
"""Weights in 8 and 4 bit as ComfyUI's files have them, and in BF16 what they stand for.

Each packer takes a weight's numbers, rows and columns, and returns the tensors that replace it, by
ending, and the numbers that a reader must find.
"""
import array
import bisect
import json
import math
import struct


def f32(x):
    return struct.unpack("<f", struct.pack("<f", x))[0]


def numbers(data):
    """BF16 bytes as floats."""
    wide = bytearray(2 * len(data))
    wide[2::4], wide[3::4] = data[0::2], data[1::2]
    return array.array("f", bytes(wide))


def bf16(values):
    """Floats as BF16 bytes, rounded to nearest, ties to even."""
    bits = array.array("I", array.array("f", values).tobytes())
    return array.array("H", [(b + 0x7fff + (b >> 16 & 1)) >> 16 for b in bits]).tobytes()


def _floats(exponent_bits, mantissa_bits, bias, top):
    codes = {}
    for code in range(1 << (exponent_bits + mantissa_bits)):
        exponent, mantissa = code >> mantissa_bits, code & ((1 << mantissa_bits) - 1)
        value = (mantissa / (1 << mantissa_bits) * 2.0 ** (1 - bias) if exponent == 0
                 else (1 + mantissa / (1 << mantissa_bits)) * 2.0 ** (exponent - bias))
        if value <= top:
            codes.setdefault(value, code)
    return sorted(codes.items())


E4M3, E5M2, E2M1 = _floats(4, 3, 7, 448), _floats(5, 2, 15, 57344), _floats(2, 1, 1, 6)


class Coder:
    """The nearest number of a small format, with its code."""

    def __init__(self, pairs, sign):
        self.values, self.codes = [p[0] for p in pairs], [p[1] for p in pairs]
        self.sign, self.known = sign, {}

    def __call__(self, x):
        if x not in self.known:
            at = bisect.bisect(self.values, abs(x))
            near = min((i for i in (at - 1, at) if 0 <= i < len(self.values)),
                       key=lambda i: abs(self.values[i] - abs(x)))
            value, code = self.values[near], self.codes[near]
            self.known[x] = (-value, code | self.sign) if x < 0 else (value, code)
        return self.known[x]


def _note(**description):
    text = json.dumps(description).encode()
    return ("U8", (len(text),), text)


def fp8(values, shape, pairs=E4M3, dtype="F8_E4M3"):
    """Cast, as it comes, whatever its shape."""
    coder = Coder(pairs, 0x80)
    coded = [coder(v) for v in values]
    return {".weight": (dtype, shape, bytes(c[1] for c in coded))}, [c[0] for c in coded]


def fp8_scaled(values, shape, blocks=None, old=False):
    """One scale (blocks None), or `blocks` of them a row; `old`: under the names of 2024."""
    rows, columns = shape
    scales, codes, found = [], bytearray(), []
    for at in range(0, len(values), len(values) if blocks is None else columns // blocks):
        part = values[at:at + (len(values) if blocks is None else columns // blocks)]
        scales.append(f32(max(max(map(abs, part)), 1e-12) / 448))
        coder = Coder(E4M3, 0x80)
        for v in part:
            value, code = coder(v / scales[-1])
            codes.append(code)
            found.append(f32(value * scales[-1]))
    extent = () if blocks is None else (rows, 1) if blocks == 1 else (rows, blocks, 1)
    scale = ("F32", extent, struct.pack(f"<{len(scales)}f", *scales))
    one = ("F32", (), struct.pack("<f", 1.0))
    tensors = {".weight": ("F8_E4M3", shape, bytes(codes))}
    if old:
        return tensors | {".scale_weight": scale, ".scale_input": one}, found
    return tensors | {".weight_scale": scale, ".input_scale": one,
                      ".comfy_quant": _note(format="float8_e4m3fn")}, found


def _tiles(scales, rows, columns):
    across = -(-columns // 4)
    out = bytearray(-(-rows // 128) * across * 512)
    for r in range(rows):
        for c in range(columns):
            at = (r // 128 * across + c // 4) * 512 + r % 32 * 16 + r % 128 // 32 * 4 + c % 4
            out[at] = scales[r * columns + c]
    return (-(-rows // 128) * 128, across * 4), bytes(out)


def mxfp8(values, shape):
    rows, columns = shape
    scales, codes, found = [], bytearray(), []
    coder = Coder(E4M3, 0x80)
    for at in range(0, len(values), 32):
        part = values[at:at + 32]
        power = math.ceil(math.log2(max(max(map(abs, part)), 1e-12) / 448))
        scales.append(power + 127)
        for v in part:
            value, code = coder(v / 2.0 ** power)
            codes.append(code)
            found.append(value * 2.0 ** power)
    extent, tiles = _tiles(scales, rows, columns // 32)
    return {".weight": ("F8_E4M3", shape, bytes(codes)), ".weight_scale": ("F8_E8M0", extent, tiles),
            ".comfy_quant": _note(format="mxfp8")}, found


def nvfp4(values, shape):
    rows, columns = shape
    whole = f32(max(map(abs, values)) / (448 * 6))
    scales, nibbles, found = [], [], []
    scale_coder, coder = Coder(E4M3, 0x80), Coder(E2M1, 8)
    for at in range(0, len(values), 16):
        part = values[at:at + 16]
        scale, code = scale_coder(max(max(map(abs, part)) / 6 / whole, 2.0 ** -9))
        scales.append(code)
        scale = f32(scale * whole)
        for v in part:
            value, code = coder(v / scale)
            nibbles.append(code)
            found.append(f32(value * scale))
    extent, tiles = _tiles(scales, rows, columns // 16)
    packed = bytes(a << 4 | b for a, b in zip(nibbles[::2], nibbles[1::2]))
    return {".weight": ("U8", (rows, columns // 2), packed),
            ".weight_scale": ("F8_E4M3", extent, tiles),
            ".weight_scale_2": ("F32", (), struct.pack("<f", whole)),
            ".comfy_quant": _note(format="nvfp4")}, found


def _rotate(x, matrix=((1, 1, 1, -1), (1, 1, -1, 1), (1, -1, 1, 1), (-1, 1, 1, 1))):
    """x times the Kronecker power of that matrix / 2 that has its size."""
    if len(x) == 1:
        return x
    quarter = len(x) // 4
    parts = [_rotate(x[i * quarter:(i + 1) * quarter]) for i in range(4)]
    return [sum(matrix[i][j] * parts[i][k] for i in range(4)) / 2
            for j in range(4) for k in range(quarter)]


def int8(values, shape, group=0):
    """A scale a row, a power of two so that rotating back is exact."""
    rows, columns = shape
    scales, codes, found = [], array.array("b"), []
    for at in range(0, len(values), columns):
        part = list(values[at:at + columns])
        for g in range(0, columns if group else 0, group or 1):
            part[g:g + group] = _rotate(part[g:g + group])
        scale = 2.0 ** math.ceil(math.log2(max(max(map(abs, part)), 1e-12) / 127))
        row = [round(v / scale) for v in part]
        codes.extend(row)
        scales.append(scale)
        part = [v * scale for v in row]
        for g in range(0, columns if group else 0, group or 1):
            part[g:g + group] = _rotate(part[g:g + group])
        found += part
    note = _note(format="int8_tensorwise", **({"convrot": True, "convrot_groupsize": group}
                                              if group else {}))
    return {".weight": ("I8", shape, codes.tobytes()),
            ".weight_scale": ("F32", (rows, 1), struct.pack(f"<{rows}f", *scales)),
            ".comfy_quant": note}, found


def pack(tensors, chosen, packer, **how):
    """The file with its chosen weights packed, and the same in BF16."""
    packed, plain = {}, {}
    for name, (dtype, shape, data) in tensors.items():
        if not chosen(name, shape):
            packed[name] = plain[name] = (dtype, shape, data)
            continue
        assert dtype == "BF16"
        parts, found = packer(numbers(data), shape, **how)
        base = name[:-len(".weight")] if name.endswith(".weight") else name
        for ending, tensor in parts.items():
            packed[name if ending == ".weight" else base + ending] = tensor
        plain[name] = (dtype, shape, bf16(found))
    return packed, plain
