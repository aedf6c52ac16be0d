"""What each operation of an ML program computes, as Apple documents it, in numpy. Parameters are given by name, as arrays and strings."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsk_deploy.errors import CorruptFileError
from rsk_deploy.mlprogram.windows import WINDOWS, sized

Array = NDArray[Any]


def _erf(x: Array) -> Array:
    from scipy import special

    return np.asarray(special.erf(x))


def _sigmoid(x: Array) -> Array:
    from scipy.special import expit

    return np.asarray(expit(x))


def _gelu(x: Array, mode: str = "EXACT") -> Array:
    if mode == "EXACT":
        return np.asarray(0.5 * x * (1 + _erf(x * math.sqrt(0.5))))
    if mode == "TANH_APPROXIMATION":
        return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))
    raise CorruptFileError(f"gelu in the mode {mode!r}; EXACT and TANH_APPROXIMATION are read")


def _prelu(x: Array, alpha: Array) -> Array:
    if x.ndim < 3 or alpha.shape != (x.shape[1],):
        raise CorruptFileError(f"slopes of shape {alpha.shape} for a value of shape {x.shape}")
    return np.where(x >= 0, x, x * alpha.reshape(-1, *[1] * (x.ndim - 2)))


def _axes(x: Array, axes: Array | None) -> tuple[int, ...]:
    return tuple(range(x.ndim)) if axes is None else tuple(int(axis) for axis in axes.reshape(-1))


def _softmax(x: Array, axis: Array) -> Array:
    powers = np.exp(x - x.max(int(axis), keepdims=True))
    return np.asarray(powers / powers.sum(int(axis), keepdims=True))


def _reduction(reduce: Callable[..., Array]) -> Callable[..., Array]:
    def run(x: Array, axes: Array | None = None, keep_dims: Array | None = None) -> Array:
        return np.asarray(reduce(x, axis=_axes(x, axes), keepdims=bool(keep_dims is not None and keep_dims)))

    return run


def _layer_norm(x: Array, axes: Array | None = None, gamma: Array | None = None, beta: Array | None = None, epsilon: Array | float = 1e-5) -> Array:
    over = _axes(x, axes)
    centred = x - x.mean(over, keepdims=True)
    normal = centred / np.sqrt(np.square(centred).mean(over, keepdims=True) + epsilon)
    shape = [size if axis in over else 1 for axis, size in enumerate(x.shape)]
    scaled = normal if gamma is None else normal * gamma.reshape(shape)
    return np.asarray(scaled if beta is None else scaled + beta.reshape(shape))


def _local_response_norm(x: Array, size: Array, alpha: Array | float = 1e-4, beta: Array | float = 0.75, k: Array | float = 1.0) -> Array:
    reach = min(int(size) // 2, x.shape[1] - 1)
    if int(size) % 2 == 0:
        raise CorruptFileError(f"local response norm over {int(size)} channels; odd numbers are read")
    squares = np.pad(np.square(x), [(0, 0), (reach, reach), *[(0, 0)] * (x.ndim - 2)])
    total = sum(squares[:, shift : shift + x.shape[1]] for shift in range(2 * reach + 1))
    return np.asarray(x / (k + alpha / int(size) * total) ** beta)


def _linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    return np.asarray(x @ weight.T if bias is None else x @ weight.T + bias)


def _matmul(x: Array, y: Array, transpose_x: Array | None = None, transpose_y: Array | None = None) -> Array:
    a, b = (value.swapaxes(-1, -2) if flag is not None and flag else value for value, flag in ((x, transpose_x), (y, transpose_y)))
    return np.asarray(a @ b)


def _concat(values: list[Array], axis: Array, interleave: Array | None = None) -> Array:
    if interleave is not None and interleave:
        raise CorruptFileError("interleaved concatenation is not read")
    sized((sum(value.size for value in values),))
    return np.concatenate(values, int(axis))


def _slice(
    x: Array, begin: Array, end: Array, stride: Array | None = None, begin_mask: Array | None = None, end_mask: Array | None = None,
    squeeze_mask: Array | None = None,
) -> Array:  # fmt: skip
    if squeeze_mask is not None and squeeze_mask.any():
        raise CorruptFileError("a slice that drops axes is not read")
    steps = np.ones(x.ndim, int) if stride is None else stride
    free = np.zeros(x.ndim, bool)
    parts = zip(begin, end, steps, free if begin_mask is None else begin_mask, free if end_mask is None else end_mask, strict=True)
    return x[*(slice(None if low_free else int(low), None if high_free else int(high), int(step)) for low, high, step, low_free, high_free in parts)]


def _gather(x: Array, indices: Array, axis: Array | int = 0, batch_dims: Array | int = 0, validate_indices: Array | None = None) -> Array:
    if int(batch_dims):
        raise CorruptFileError("a gather with batch axes is not read")
    sized((*x.shape[: int(axis)], *indices.shape, *x.shape[int(axis) + 1 :]))
    return x.take(indices, int(axis))


def _pad(x: Array, pad: Array, mode: str = "constant", constant_val: Array | float = 0.0) -> Array:
    widths = [(0, 0)] * (x.ndim - pad.size // 2) + [(int(pad[at]), int(pad[at + 1])) for at in range(0, pad.size, 2)]
    if min(min(width) for width in widths) < 0:
        raise CorruptFileError(f"pads {pad.tolist()}")
    sized([size + sum(width) for size, width in zip(x.shape, widths, strict=True)])
    if mode == "constant":
        return np.pad(x, widths, constant_values=float(constant_val))
    if mode not in ("reflect", "replicate"):
        raise CorruptFileError(f"pads in the mode {mode!r}; constant, reflect and replicate are read")
    return np.pad(x, widths, mode="reflect" if mode == "reflect" else "edge")


def _activation(function: Callable[..., Any], *names: str) -> Callable[..., Array]:
    """A function of ``x`` and of parameters that a program may call otherwise."""

    def run(x: Array, **parameters: Array) -> Array:
        if parameters.keys() != set(names):
            raise CorruptFileError(f"has the parameters {sorted(parameters)}, not {sorted(names)}")
        return np.asarray(function(x, *(parameters[name] for name in names)))

    return run


def _binary(function: Callable[[Array, Array], Array]) -> Callable[..., Array]:
    def run(x: Array, y: Array) -> Array:
        sized(np.broadcast_shapes(x.shape, y.shape))
        return function(x, y)

    return run


OPERATIONS: Mapping[str, Callable[..., Array]] = {
    **WINDOWS,
    "cast": lambda x, dtype: x,
    "identity": _activation(lambda x: x),
    "relu": _activation(lambda x: np.maximum(x, 0)),
    "sigmoid": _activation(_sigmoid),
    "tanh": _activation(np.tanh),
    "silu": _activation(lambda x: x * _sigmoid(x)),
    "softplus": _activation(lambda x: np.logaddexp(x.dtype.type(0), x)),
    "softsign": _activation(lambda x: x / (1 + np.abs(x))),
    "exp": _activation(np.exp),
    "log": _activation(lambda x, epsilon: np.log(x + epsilon), "epsilon"),
    "sqrt": _activation(np.sqrt),
    "abs": _activation(np.abs),
    "erf": _activation(_erf),
    "leaky_relu": _activation(lambda x, alpha: np.where(x >= 0, x, alpha * x), "alpha"),
    "elu": _activation(lambda x, alpha: np.where(x >= 0, x, alpha * np.expm1(x)), "alpha"),
    "sigmoid_hard": _activation(lambda x, alpha, beta: np.clip(alpha * x + beta, 0, 1), "alpha", "beta"),
    "clip": _activation(lambda x, alpha, beta: np.clip(x, alpha, beta), "alpha", "beta"),
    "gelu": _gelu,
    "prelu": _prelu,
    "softmax": _softmax,
    "add": _binary(np.add),
    "sub": _binary(np.subtract),
    "mul": _binary(np.multiply),
    "real_div": _binary(np.divide),
    "maximum": _binary(np.maximum),
    "minimum": _binary(np.minimum),
    "pow": _binary(np.power),
    "linear": _linear,
    "matmul": _matmul,
    "layer_norm": _layer_norm,
    "local_response_norm": _local_response_norm,
    "concat": _concat,
    "slice_by_index": _slice,
    "gather": _gather,
    "pad": _pad,
    "expand_dims": lambda x, axes: np.expand_dims(x, _axes(x, axes)),
    "squeeze": lambda x, axes=None: x.squeeze(None if axes is None else _axes(x, axes)),
    "reshape": lambda x, shape: x.reshape([int(size) for size in shape]),
    "transpose": lambda x, perm: x.transpose([int(axis) for axis in perm]),
    "reduce_mean": _reduction(np.mean),
    "reduce_sum": _reduction(np.sum),
    "reduce_max": _reduction(np.max),
    "reduce_min": _reduction(np.min),
    "reduce_prod": _reduction(np.prod),
    "reduce_l2_norm": _reduction(lambda x, axis, keepdims: np.sqrt(np.square(x).sum(axis=axis, keepdims=keepdims))),
}
"""By name; ``const``, ``classify`` and the ``constexpr`` operations are the program's own. A cast only has another type, as every result takes its own."""
