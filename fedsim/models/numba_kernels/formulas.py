"""Formulas on vectors: written like arithmetic, turned by `elementwise` into a loop over a row.

LLVM's own vectoriser gives up on loops over many arrays that might overlap and prefers half-width vectors on some
CPUs, so the vectors are spelled out. LLVM splits those that are wider than the machine's: the same code is right on
every CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]  # it has no types
from numba import types
from numba.core import cgutils

from fedsim.models.numba_kernels.pointers import INT, LANE, float_of, intrinsic, lanes_of

FASTMATH = ("contract", "reassoc", "arcp", "nsz", "afn")
"""What the compiler may do with the floats of a formula. Not ``nnan`` and ``ninf``: a diverged client must show.

It is said at each instruction and not to Numba, which would say it at all of them, the exact ones of `exp` included.
"""


class Vector:
    """A vector value while LLVM code is being written: arithmetic on it appends instructions."""

    def __init__(self, builder: ir.IRBuilder, value: ir.Value) -> None:
        self.builder, self.value = builder, value

    def _lift(self, other: Vector | float) -> ir.Value:
        if isinstance(other, Vector):
            return other.value
        return ir.Constant(self.value.type, [other] * self.value.type.count)

    def __add__(self, other: Vector | float) -> Vector:
        return Vector(self.builder, self.builder.fadd(self.value, self._lift(other), flags=FASTMATH))

    def __sub__(self, other: Vector | float) -> Vector:
        return Vector(self.builder, self.builder.fsub(self.value, self._lift(other), flags=FASTMATH))

    def __rsub__(self, other: float) -> Vector:
        return Vector(self.builder, self.builder.fsub(self._lift(other), self.value, flags=FASTMATH))

    def __mul__(self, other: Vector | float) -> Vector:
        return Vector(self.builder, self.builder.fmul(self.value, self._lift(other), flags=FASTMATH))

    __radd__, __rmul__ = __add__, __mul__

    def __truediv__(self, other: Vector | float) -> Vector:
        return Vector(self.builder, self.builder.fdiv(self.value, self._lift(other), flags=FASTMATH))

    def __rtruediv__(self, other: float) -> Vector:
        return Vector(self.builder, self.builder.fdiv(self._lift(other), self.value, flags=FASTMATH))

    def where_less(self, bound: float, then: Vector | float) -> Vector:
        """``then if self < bound else self``; NaN is not less than anything and stays."""
        test = self.builder.fcmp_ordered("<", self.value, self._lift(bound))
        return Vector(self.builder, self.builder.select(test, self._lift(then), self.value))

    def where_greater(self, bound: float, then: Vector | float) -> Vector:
        """``then if self > bound else self``; NaN stays."""
        test = self.builder.fcmp_ordered(">", self.value, self._lift(bound))
        return Vector(self.builder, self.builder.select(test, self._lift(then), self.value))

    def or_larger(self, other: Vector) -> Vector:
        """``other if other > self else self``; NaN is not larger than anything."""
        test = self.builder.fcmp_ordered(">", other.value, self.value)
        return Vector(self.builder, self.builder.select(test, other.value, self.value))

    def zero(self) -> Vector:
        """Zeros, whatever `self` holds."""
        return Vector(self.builder, self._lift(0.0))

    def positive(self) -> Vector:
        """1 where ``self > 0``, else 0 (for NaN too)."""
        test = self.builder.fcmp_ordered(">", self.value, self._lift(0.0))
        return Vector(self.builder, self.builder.select(test, self._lift(1.0), self._lift(0.0)))

    def _library(self, name: str) -> Vector:
        """Call the C library's function for every lane."""
        element, builder = self.value.type.element, self.builder
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(element, [element]), name)
        result = ir.Constant(self.value.type, ir.Undefined)
        for lane in range(self.value.type.count):
            value = builder.call(function, [builder.extract_element(self.value, LANE(lane))])
            result = builder.insert_element(result, value, LANE(lane))
        return Vector(builder, result)


# exp(r) = 1 + r + r^2 * polynomial(r) for |r| <= log(2) / 2 to the last bit of float32: Cephes, expf.
_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
_LOG2_E = 1.44269504088896341
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4
_ROUND = 12582912.0  # 1.5 * 2^23: a float32 near it has no fraction, and its lowest bits are the integer


def _exp_minus_1(x: Vector) -> tuple[Vector, Vector]:
    """``exp(x) - 1`` and ``exp(x)`` in float32 for |x| < 88; each to about its last bit."""
    builder, vector = x.builder, x.value.type
    # Without flags: the compiler must not cancel the two additions.
    shifted = builder.fadd((x * _LOG2_E).value, x._lift(_ROUND))
    n = Vector(builder, builder.fsub(shifted, x._lift(_ROUND)))
    r = x - n * _LN2_HIGH - n * _LN2_LOW
    tail = r * _EXP[0] + _EXP[1]
    for coefficient in _EXP[2:]:
        tail = tail * r + coefficient
    tail = tail * (r * r) + r
    whole = ir.VectorType(LANE, vector.count)
    bits = builder.shl(builder.bitcast(shifted, whole), ir.Constant(whole, [23] * vector.count))
    bits = builder.add(bits, ir.Constant(whole, [127 << 23] * vector.count))
    power = Vector(builder, builder.bitcast(bits, vector))  # 2^n
    return power * tail + (power - 1.0), power * tail + power


def tanh(x: Vector) -> Vector:
    """tanh; in float32 ``(e - 1) / (e + 1)`` with ``e = exp(2 x)``, in float64 the C library's.

    The rational function that Eigen and XLA use is a little faster, but it never quite reaches 1: with inputs of, say,
    1e4, units that are shut would still pass gradients on.
    """
    if isinstance(x.value.type.element, ir.DoubleType):
        return x._library("tanh")
    x = x * 2.0
    less, _ = _exp_minus_1(x.where_less(-40.0, -40.0).where_greater(40.0, 40.0))
    return less / (less + 2.0)


def sigmoid(x: Vector) -> Vector:
    """The logistic function."""
    if isinstance(x.value.type.element, ir.DoubleType):
        return 1.0 / (1.0 + (0.0 - x)._library("exp"))
    x = 0.0 - x
    _, e = _exp_minus_1(x.where_less(-87.0, -87.0).where_greater(87.0, 87.0))
    return 1.0 / (1.0 + e)


def exp(x: Vector) -> Vector:
    """The exponential of numbers up to 87; below -87 it stays at ``exp(-87)``, which is 1.6e-38."""
    if isinstance(x.value.type.element, ir.DoubleType):
        return x._library("exp")
    return _exp_minus_1(x.where_less(-87.0, -87.0))[1]


# log(1 + z) = z - z^2 / 2 + z^3 * polynomial(z) to the last bit of float32 from sqrt(1/2) to sqrt(2): Cephes, logf.
_LOG = (
    *(7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1),
    *(2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1),
)
_SQRT_HALF = 0x3F3504F3  # the bits of sqrt(1/2)
_MANTISSA = 0x7FFFFF


def log(x: Vector) -> Vector:
    """The natural logarithm of positive normal numbers; NaN stays NaN."""
    if isinstance(x.value.type.element, ir.DoubleType):
        return x._library("log")
    builder, vector = x.builder, x.value.type
    whole = ir.VectorType(LANE, vector.count)

    def bits(number: int) -> ir.Constant:
        return ir.Constant(whole, [number] * vector.count)

    # x = 2^n (1 + z), with 1 + z between sqrt(1/2) and sqrt(2)
    above = builder.sub(builder.bitcast(x.value, whole), bits(_SQRT_HALF))
    n = Vector(builder, builder.sitofp(builder.ashr(above, bits(23)), vector))
    mantissa = builder.add(builder.and_(above, bits(_MANTISSA)), bits(_SQRT_HALF))
    z = Vector(builder, builder.bitcast(mantissa, vector)) - 1.0
    tail = z * _LOG[0] + _LOG[1]
    for coefficient in _LOG[2:]:
        tail = tail * z + coefficient
    result = (tail * z - 0.5) * (z * z) + n * _LN2_LOW + z + n * _LN2_HIGH
    nan = builder.fcmp_unordered("uno", x.value, x.value)
    return Vector(builder, builder.select(nan, x.value, result.value))


def sqrt(x: Vector) -> Vector:
    """The square root, exact to the last bit."""
    name = f"llvm.sqrt.{vector_name(x.value.type)}"
    kind = ir.FunctionType(x.value.type, [x.value.type])
    function = cgutils.get_or_insert_function(x.builder.module, kind, name)
    return Vector(x.builder, x.builder.call(function, [x.value]))


def load(builder: ir.IRBuilder, pointer: ir.Value, vector: ir.Type) -> ir.Value:
    """Load a vector that need not be aligned."""
    value = builder.load(builder.bitcast(pointer, vector.as_pointer()))
    value.align = _bytes(vector.element)
    return value


def _bytes(element: ir.Type) -> int:
    return 4 if isinstance(element, ir.FloatType) else 8


def store(builder: ir.IRBuilder, value: ir.Value, pointer: ir.Value) -> None:
    """Store a vector at an address that need not be aligned."""
    builder.store(value, builder.bitcast(pointer, value.type.as_pointer())).align = _bytes(value.type.element)


def vector_name(vector: ir.VectorType) -> str:
    """What LLVM calls a vector in the names of its intrinsics."""
    return f"v{vector.count}f{8 * _bytes(vector.element)}"


def splat(builder: ir.IRBuilder, value: ir.Value, vector: ir.VectorType) -> ir.Value:
    """A vector with the same value in all lanes."""
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), value, LANE(0))
    zeros = ir.Constant(ir.VectorType(LANE, vector.count), [0] * vector.count)
    return builder.shuffle_vector(first, ir.Constant(vector, ir.Undefined), zeros)


def elementwise(formula: Callable[..., tuple[Vector | None, ...]]) -> Any:
    """Make ``f(pointers, count)`` of a formula: a loop that reads and writes `count` numbers at each pointer.

    Args:
        formula: takes one `Vector` per pointer and returns as many: what to write there, or None to leave it. Pointers
            may be equal or apart, but must not overlap otherwise.
    """

    @intrinsic
    def loop(context: Any, pointers: types.UniTuple, count: types.Integer) -> Any:
        def generate(ctx: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> ir.Value:
            _write_loop(builder, formula, cgutils.unpack_tuple(builder, args[0]), args[1], pointers.dtype.dtype)
            return ctx.get_dummy_value()

        return types.void(pointers, types.intp), generate

    return loop


def elementwise_with(formula: Callable[..., tuple[Vector | None, ...]]) -> Any:
    """Make ``f(pointers, count, numbers)`` as `elementwise` does, of a formula that takes numbers behind the vectors.

    Args:
        formula: takes one `Vector` per pointer, and one per number, which has it in all lanes.
    """

    @intrinsic
    def loop(context: Any, pointers: types.UniTuple, count: types.Integer, numbers: types.UniTuple) -> Any:
        dtype = pointers.dtype.dtype

        def generate(ctx: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> ir.Value:
            vector = ir.VectorType(float_of(dtype), lanes_of(dtype))
            found = [Vector(builder, splat(builder, n, vector)) for n in cgutils.unpack_tuple(builder, args[2])]
            bases = cgutils.unpack_tuple(builder, args[0])
            _write_loop(builder, lambda *vectors: formula(*vectors, *found), bases, args[1], dtype)
            return ctx.get_dummy_value()

        return types.void(pointers, types.intp, types.UniTuple(dtype, numbers.count)), generate

    return loop


def _write_loop(
    builder: ir.IRBuilder, formula: Callable[..., Any], bases: list[ir.Value], count: ir.Value, dtype: types.Type
) -> None:
    """The loop of `elementwise`, over whole vectors, and what is left."""
    width = lanes_of(dtype)
    vector = ir.VectorType(float_of(dtype), width)
    full = builder.and_(count, INT(-width))
    with cgutils.for_range_slice(builder, INT(0), full, INT(width), inc=True) as (j, _):
        places = [builder.gep(base, [j]) for base in bases]
        results = formula(*(Vector(builder, load(builder, p, vector)) for p in places))
        for place, result in zip(places, results, strict=True):
            if result is not None:
                store(builder, result.value, place)
    rest = builder.sub(count, full)
    with builder.if_then(builder.icmp_signed(">", rest, INT(0))):
        _masked(builder, formula, [builder.gep(base, [full]) for base in bases], vector, rest)


def _masked(
    builder: ir.IRBuilder, formula: Callable[..., Any], places: list[ir.Value], vector: ir.VectorType, count: ir.Value
) -> None:
    """The last, partial vector of `elementwise`: lanes from `count` on are neither read nor written."""
    bits = ir.VectorType(ir.IntType(1), vector.count)
    lane_type = ir.VectorType(LANE, vector.count)
    limit = splat(builder, builder.trunc(count, LANE), lane_type)
    mask = builder.icmp_signed("<", ir.Constant(lane_type, list(range(vector.count))), limit)
    name, pointer = vector_name(vector), vector.as_pointer()
    load = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(vector, [pointer, LANE, bits, vector]), f"llvm.masked.load.{name}.p0"
    )
    store = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(ir.VoidType(), [vector, pointer, LANE, bits]), f"llvm.masked.store.{name}.p0"
    )
    align, zero = LANE(_bytes(vector.element)), ir.Constant(vector, [0.0] * vector.count)
    places = [builder.bitcast(place, pointer) for place in places]
    results = formula(*(Vector(builder, builder.call(load, [p, align, mask, zero])) for p in places))
    for place, result in zip(places, results, strict=True):
        if result is not None:
            builder.call(store, [result.value, place, align, mask])


units_row = elementwise(lambda units, o, cell: (o * tanh(cell), None, None))
"""What an LSTM lets out of its cells: ``units = o * tanh(cell)``."""
