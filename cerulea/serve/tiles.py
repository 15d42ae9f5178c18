"""Small matrix and vector operations written as LLVM vector code, for kernels that Numba compiles.

In:      arrays and offsets in them; nothing is checked.
Out:     `tile` multiplies R rows by 32 output channels; `dots` and `blend` are the two halves of attention.
Kept:    every output is one chain of additions in the order of the inputs, whatever R is, so that a row's numbers do
         not depend on the rows beside it. With AVX-512 a step is one bf16 or int16 dot-product instruction; elsewhere
         LLVM makes the same step from what the processor has.
Layout:  a matrix (N, K) is stored as [N/32][K/step][2][16][step]: 32 channels side by side for each one (fp32) or two
         (bf16, int8) inputs. Activations are [K/step][R] words of 32 bits: one float, two bf16 or two int16.
Not here: what is multiplied when (`fused`).
"""

from __future__ import annotations

from typing import Any

from llvmlite import binding, ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic

from cerulea.serve.phases import LANES


class _BFloat(ir.Type):  # type: ignore[misc]
    def __str__(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash("bfloat")


F32, I8, I16, I32, I64 = ir.FloatType(), ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64)
F32x16, I32x16 = ir.VectorType(F32, LANES), ir.VectorType(I32, LANES)
I8x32, I16x32, BF16x32 = ir.VectorType(I8, 32), ir.VectorType(I16, 32), ir.VectorType(_BFloat(), 32)


def has(feature: str) -> bool:
    """Whether the processor that is compiled for has a feature, by LLVM's name."""
    given = config.CPU_FEATURES
    if given is None:
        return bool(binding.get_host_cpu_features().get(feature, False))
    return f"+{feature}" in given.split(",")


def _number(value: int) -> Any:
    return ir.Constant(I64, value)


def _pointer(context: Any, builder: Any, kind: Any, array: Any, offset: Any, element: Any) -> Any:
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [offset]), element.as_pointer())


def _splat(builder: Any, value: Any) -> Any:
    vector = ir.VectorType(value.type, LANES)
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(I32, 0))
    return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), ir.Constant(I32x16, [0] * LANES))


def _load(builder: Any, pointer: Any, vector: Any) -> Any:
    return builder.load(builder.bitcast(pointer, vector.as_pointer()), align=1)


def _fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    kind = ir.FunctionType(F32x16, [F32x16] * 3)
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.fmuladd.v16f32"), [a, b, c])


def _halves(builder: Any, pairs: Any) -> tuple[Any, Any]:
    """The lower and the upper bf16 of each word, as floats."""
    low = builder.shl(pairs, ir.Constant(I32x16, [16] * LANES))
    high = builder.and_(pairs, ir.Constant(I32x16, [0xFFFF0000] * LANES))
    return builder.bitcast(low, F32x16), builder.bitcast(high, F32x16)


def _step(builder: Any, bits: int, total: Any, x: Any, w: Any) -> Any:
    """Add x * w to the total, where a lane of x and w is one float (32), two bf16 (16) or two int16 (8)."""
    if bits == 32:
        return _fma(builder, x, w, total)
    if bits == 16:
        if has("avx512bf16"):
            kind = ir.FunctionType(F32x16, [F32x16, BF16x32, BF16x32])
            dot = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx512bf16.dpbf16ps.512")
            return builder.call(dot, [total, builder.bitcast(x, BF16x32), builder.bitcast(w, BF16x32)])
        (x0, x1), (w0, w1) = _halves(builder, x), _halves(builder, w)
        return _fma(builder, x1, w1, _fma(builder, x0, w0, total))
    a, b = builder.bitcast(x, I16x32), w
    if has("avx512bw"):
        kind = ir.FunctionType(I32x16, [I16x32, I16x32])
        dot = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx512.pmaddw.d.512")
        return builder.add(total, builder.call(dot, [a, b]))
    wide = ir.VectorType(I32, 32)
    product = builder.mul(builder.sext(a, wide), builder.sext(b, wide))
    none = ir.Constant(wide, ir.Undefined)
    even = builder.shuffle_vector(product, none, ir.Constant(I32x16, list(range(0, 32, 2))))
    odd = builder.shuffle_vector(product, none, ir.Constant(I32x16, list(range(1, 32, 2))))
    return builder.add(total, builder.add(even, odd))


@intrinsic(prefer_literal=True)
def tile(_: Any, w: Any, w_at: Any, x: Any, x_at: Any, y: Any, y_at: Any, steps: Any, rows: Any) -> Any:
    """Write y[y_at:] as (R, 32) = x (R rows) times w (32 channels); `rows` is a literal, steps >= 1.

    Args:
        w: float32, uint16 (bf16) or int8, packed; the panel begins at w_at.
        x: int32 words; the rows begin at x_at.
        y: float32.
    """
    if not isinstance(rows, types.IntegerLiteral):
        return None
    bits, R = w.dtype.bitwidth, rows.literal_value
    signature = types.void(w, types.intp, x, types.intp, y, types.intp, types.intp, rows)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        w_pointer = _pointer(context, builder, sig.args[0], args[0], args[1], I8)
        x_pointer = _pointer(context, builder, sig.args[2], args[2], args[3], F32 if bits == 32 else I32)
        y_pointer = _pointer(context, builder, sig.args[4], args[4], args[5], F32)
        lane = I32x16 if bits == 8 else F32x16
        before, loop, after = builder.block, builder.append_basic_block("tile"), builder.append_basic_block("tiled")
        builder.branch(loop)
        builder.position_at_end(loop)
        i = builder.phi(I64)
        i.add_incoming(_number(0), before)
        totals = [builder.phi(lane) for _ in range(2 * R)]
        for total in totals:
            total.add_incoming(ir.Constant(lane, None), before)
        half = 32 if bits == 8 else 64  # bytes of 16 channels
        weights = []
        for c in range(2):
            at = builder.gep(w_pointer, [builder.add(builder.mul(i, _number(2 * half)), _number(c * half))])
            if bits == 8:
                weights.append(builder.sext(_load(builder, at, I8x32), I16x32))
            else:
                weights.append(_load(builder, at, F32x16 if bits == 32 else I32x16))
        sums = []
        for r in range(R):
            at = builder.gep(x_pointer, [builder.add(builder.mul(i, _number(R)), _number(r))])
            word = _splat(builder, builder.load(at, align=4))
            sums += [_step(builder, bits, totals[2 * r + c], word, weights[c]) for c in range(2)]
        following = builder.add(i, _number(1))
        i.add_incoming(following, loop)
        for total, new in zip(totals, sums, strict=True):
            total.add_incoming(new, loop)
        builder.cbranch(builder.icmp_signed("<", following, args[6]), loop, after)
        builder.position_at_end(after)
        for n, new in enumerate(sums):
            value = builder.sitofp(new, F32x16) if bits == 8 else new
            at = builder.bitcast(builder.gep(y_pointer, [_number(n * LANES)]), F32x16.as_pointer())
            builder.store(value, at, align=4)
        return context.get_dummy_value()

    return signature, generate


def _load_kept(builder: Any, pointer: Any, bits: int) -> Any:
    """16 kept keys or values as floats."""
    if bits == 32:
        return _load(builder, pointer, F32x16)
    wide = builder.zext(_load(builder, pointer, ir.VectorType(I16, LANES)), I32x16)
    return builder.bitcast(builder.shl(wide, ir.Constant(I32x16, [16] * LANES)), F32x16)


@intrinsic(prefer_literal=True)
def dots(_: Any, q: Any, q_at: Any, kv: Any, k_at: Any, size: Any, out: Any, out_at: Any, keys: Any) -> Any:
    """Write out[out_at:] = the query's dot products with `keys` (a literal) keys in a row, `size` a multiple of 16."""
    if not isinstance(keys, types.IntegerLiteral):
        return None
    bits, count = kv.dtype.bitwidth, keys.literal_value
    signature = types.void(q, types.intp, kv, types.intp, types.intp, out, types.intp, keys)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        q_pointer = _pointer(context, builder, sig.args[0], args[0], args[1], F32)
        k_pointer = _pointer(context, builder, sig.args[2], args[2], args[3], F32 if bits == 32 else I16)
        out_pointer = _pointer(context, builder, sig.args[5], args[5], args[6], F32)
        before, loop, after = builder.block, builder.append_basic_block("dots"), builder.append_basic_block("dotted")
        builder.branch(loop)
        builder.position_at_end(loop)
        i = builder.phi(I64)
        i.add_incoming(_number(0), before)
        totals = [builder.phi(F32x16) for _ in range(count)]
        q_part = _load(builder, builder.gep(q_pointer, [i]), F32x16)
        following = builder.add(i, _number(LANES))
        i.add_incoming(following, loop)
        sums = []
        for j, total in enumerate(totals):
            at = builder.gep(k_pointer, [builder.add(i, builder.mul(args[4], _number(j)))])
            sums.append(_fma(builder, q_part, _load_kept(builder, at, bits), total))
            total.add_incoming(ir.Constant(F32x16, None), before)
            total.add_incoming(sums[-1], loop)
        builder.cbranch(builder.icmp_signed("<", following, args[4]), loop, after)
        builder.position_at_end(after)
        kind = ir.FunctionType(F32, [F32, F32x16])
        add = cgutils.get_or_insert_function(builder.module, kind, "llvm.vector.reduce.fadd.v16f32")
        for j, total in enumerate(sums):
            # "reassoc" lets lanes be added as a tree; the tree is the same for every key.
            value = builder.call(add, [ir.Constant(F32, -0.0), total], fastmath=("reassoc",))
            builder.store(value, builder.gep(out_pointer, [_number(j)]), align=4)
        return context.get_dummy_value()

    return signature, generate


@intrinsic(prefer_literal=True)
def blend(
    _: Any, p: Any, p_at: Any, count: Any, kv: Any, v_at: Any, size: Any, out: Any, out_at: Any, parts: Any
) -> Any:
    """Write out[out_at:] as 16 * parts channels = sum of p[p_at + j] * v_j over `count` >= 1 values, `size` apart."""
    if not isinstance(parts, types.IntegerLiteral):
        return None
    bits, width = kv.dtype.bitwidth, parts.literal_value
    signature = types.void(p, types.intp, types.intp, kv, types.intp, types.intp, out, types.intp, parts)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        p_pointer = _pointer(context, builder, sig.args[0], args[0], args[1], F32)
        v_pointer = _pointer(context, builder, sig.args[3], args[3], args[4], F32 if bits == 32 else I16)
        out_pointer = _pointer(context, builder, sig.args[6], args[6], args[7], F32)
        before, loop, after = builder.block, builder.append_basic_block("blend"), builder.append_basic_block("blent")
        builder.branch(loop)
        builder.position_at_end(loop)
        j = builder.phi(I64)
        j.add_incoming(_number(0), before)
        totals = [builder.phi(F32x16) for _ in range(width)]
        share = _splat(builder, builder.load(builder.gep(p_pointer, [j]), align=4))
        begin = builder.mul(j, args[5])
        following = builder.add(j, _number(1))
        j.add_incoming(following, loop)
        sums = []
        for c, total in enumerate(totals):
            at = builder.gep(v_pointer, [builder.add(begin, _number(c * LANES))])
            sums.append(_fma(builder, share, _load_kept(builder, at, bits), total))
            total.add_incoming(ir.Constant(F32x16, None), before)
            total.add_incoming(sums[-1], loop)
        builder.cbranch(builder.icmp_signed("<", following, args[2]), loop, after)
        builder.position_at_end(after)
        for c, total in enumerate(sums):
            at = builder.bitcast(builder.gep(out_pointer, [_number(c * LANES)]), F32x16.as_pointer())
            builder.store(total, at, align=4)
        return context.get_dummy_value()

    return signature, generate


@intrinsic(prefer_literal=True)
def total(_: Any, x: Any, count: Any, mean: Any, power: Any) -> Any:
    """Sum of x[i] - mean, or with the literal power 2 of its square, over the first `count` of a float32 array."""
    if not isinstance(power, types.IntegerLiteral):
        return None
    squared = power.literal_value == 2
    signature = types.float32(x, types.intp, types.float32, power)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = _pointer(context, builder, sig.args[0], args[0], _number(0), F32)
        many = builder.and_(args[1], _number(-LANES))
        sums = cgutils.alloca_once_value(builder, ir.Constant(F32x16, None))
        with cgutils.for_range_slice(builder, _number(0), many, _number(LANES)) as (i, _count):
            part = builder.fsub(_load(builder, builder.gep(pointer, [i]), F32x16), _splat(builder, args[2]))
            old = builder.load(sums)
            builder.store(_fma(builder, part, part, old) if squared else builder.fadd(old, part), sums)
        kind = ir.FunctionType(F32, [F32, F32x16])
        add = cgutils.get_or_insert_function(builder.module, kind, "llvm.vector.reduce.fadd.v16f32")
        tree = builder.call(add, [ir.Constant(F32, -0.0), builder.load(sums)], fastmath=("reassoc",))
        whole = cgutils.alloca_once_value(builder, tree)
        with cgutils.for_range_slice(builder, many, args[1], _number(1)) as (i, _count):
            one = builder.fsub(builder.load(builder.gep(pointer, [i])), args[2])
            one = builder.fmul(one, one) if squared else one
            builder.store(builder.fadd(builder.load(whole), one), whole)
        return builder.load(whole)

    return signature, generate


@intrinsic
def fma(_: Any, a: Any, b: Any, c: Any) -> Any:
    """Return a * b + c with one rounding."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = ir.FunctionType(F32, [F32] * 3)
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.fma.f32"), args)

    return types.float32(types.float32, types.float32, types.float32), generate


@intrinsic
def bits_of(_: Any, array: Any) -> Any:
    """Bits of one element of an array, known while compiling: what is for another format is not compiled."""
    signature = types.intp(array)
    return signature, lambda context, builder, sig, args: _number(array.dtype.bitwidth)


@intrinsic
def as_float(_: Any, word: Any) -> Any:
    """The float32 with these 32 bits."""
    return types.float32(types.int32), lambda context, builder, sig, args: builder.bitcast(args[0], F32)


@intrinsic
def as_word(_: Any, value: Any) -> Any:
    """The 32 bits of a float32."""
    return types.int32(types.float32), lambda context, builder, sig, args: builder.bitcast(args[0], I32)
