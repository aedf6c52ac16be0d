"""Pooling that torch's exporter gets wrong: adaptive pooling computes indices in the graph, and a divisor of one's own is dropped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from rsk_deploy.errors import UnsupportedError


def translations() -> dict[Any, Callable[..., Any]]:
    """The ``custom_translation_table`` of ``torch.onnx.export`` for pooling."""
    from onnxscript.function_libs.torch_lib.ops import nn
    from torch.ops import aten

    return {
        aten.avg_pool2d.default: _average(nn.aten_avg_pool2d, 2),
        aten.avg_pool3d.default: _average(nn.aten_avg_pool3d, 3),
        aten.adaptive_avg_pool1d.default: _pool("AveragePool", "ReduceMean"),
        aten.adaptive_avg_pool2d.default: _pool("AveragePool", "ReduceMean"),
        aten.adaptive_avg_pool3d.default: _pool("AveragePool", "ReduceMean"),
        aten.adaptive_max_pool1d.default: _first_of(_pool("MaxPool", "ReduceMax")),
        aten.adaptive_max_pool2d.default: _first_of(_pool("MaxPool", "ReduceMax")),
        aten.adaptive_max_pool3d.default: _first_of(_pool("MaxPool", "ReduceMax")),
    }


def _average(mean: Callable[..., Any], rank: int) -> Callable[..., Any]:
    """The given translation; with ``divisor_override`` the sum under the window, pads included, divided by that."""

    def translate(
        self: Any,
        kernel_size: Sequence[int],
        stride: Sequence[int] = (),
        padding: Sequence[int] = (0,),
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Any:
        from onnxscript import opset18

        if divisor_override is None:
            return mean(self, kernel_size, stride, padding, ceil_mode, count_include_pad)
        if ceil_mode:
            raise UnsupportedError(f"average pooling with divisor_override={divisor_override} and ceil_mode=True is not read; leave one of them out")
        area = prod(kernel_size) if len(kernel_size) == rank else kernel_size[0] ** rank
        factor = opset18.CastLike(opset18.Constant(value_float=area / divisor_override), self)
        return opset18.Mul(mean(self, kernel_size, stride, padding, count_include_pad=True), factor)

    return translate


def _first_of(pool: Callable[..., Any]) -> Callable[..., Any]:
    """Adaptive max pooling in torch also gives indices; without a consumer they are left out."""

    def translate(self: Any, output_size: Sequence[int]) -> tuple[Any, Any]:
        pooled = pool(self, output_size)
        return pooled, pooled

    return translate


def _pool(window: str, reduction: str) -> Callable[..., Any]:
    def translate(self: Any, output_size: Sequence[int]) -> Any:
        from onnxscript import opset18

        rank = len(output_size)
        sizes = [dim for dim in self.shape[-rank:] if isinstance(dim, int)]
        if len(sizes) < rank:
            raise UnsupportedError(f"adaptive pooling to {tuple(output_size)} of an input of open size {tuple(self.shape)}; only the batch may be open")
        outputs = [size if wanted is None else wanted for size, wanted in zip(sizes, output_size, strict=True)]
        reduce, axes = getattr(opset18, reduction), range(len(self.shape) - rank, len(self.shape))
        if all(wanted == 1 for wanted in outputs):
            return reduce(self, list(axes), keepdims=1)
        if all(size % wanted == 0 for size, wanted in zip(sizes, outputs, strict=True)):
            kernel = [size // wanted for size, wanted in zip(sizes, outputs, strict=True)]
            pooled = getattr(opset18, window)(self, kernel_shape=kernel, strides=kernel)
            return pooled[0] if isinstance(pooled, tuple) else pooled
        # a window is a product of spans, so its mean (or maximum) can be taken one axis after the other
        for axis, size, wanted in zip(axes, sizes, outputs, strict=True):
            spans = [(index * size // wanted, -(-(index + 1) * size // wanted)) for index in range(wanted)]
            self = opset18.Concat(*(reduce(opset18.Slice(self, [start], [stop], [axis]), [axis], keepdims=1) for start, stop in spans), axis=axis)
        return self

    return translate
