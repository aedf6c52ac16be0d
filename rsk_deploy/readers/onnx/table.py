"""The one lowering table: what each ONNX operator becomes. An operator that is not here, or whose function says NotModelled, stays opaque."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from rsk_deploy.readers.onnx import moving, norms, pointwise, products, resize, windows
from rsk_deploy.readers.onnx.build import Node

Lowering: TypeAlias = Callable[[Node], None]

LOWERINGS: Mapping[str, Lowering] = {
    "Conv": windows.conv,
    "ConvTranspose": windows.conv_transpose,
    "MaxPool": windows.max_pool,
    "AveragePool": windows.average_pool,
    "GlobalAveragePool": windows.global_average_pool,
    "GlobalMaxPool": windows.global_max_pool,
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceProd"), windows.reduce),
    "Gemm": products.gemm,
    "MatMul": products.matmul,
    "BatchNormalization": norms.batch_norm,
    "InstanceNormalization": norms.instance_norm,
    "GroupNormalization": norms.group_norm,
    "LayerNormalization": norms.layer_norm,
    "LRN": norms.lrn,
    **dict.fromkeys(pointwise.PLAIN, pointwise.plain),
    **dict.fromkeys(pointwise.WITH_PARAMETERS, pointwise.with_parameters),
    "Gelu": pointwise.gelu,
    "Swish": pointwise.swish,
    "Clip": pointwise.clip,
    "PRelu": pointwise.prelu,
    **dict.fromkeys(("Softmax", "LogSoftmax"), pointwise.softmax),
    **dict.fromkeys(pointwise.BINARY, pointwise.binary),
    **dict.fromkeys(pointwise.VARIADIC, pointwise.variadic),
    **dict.fromkeys(("Identity", "Dropout", "Cast", "CastLike"), moving.identity),
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), moving.reshape),
    "Transpose": moving.transpose,
    "DepthToSpace": moving.depth_to_space,
    "SpaceToDepth": moving.space_to_depth,
    "Concat": moving.concat,
    "Split": moving.split,
    "Slice": moving.slice_,
    "Gather": moving.gather,
    "Pad": moving.pad,
    "Expand": moving.expand,
    "Tile": moving.tile,
    "Resize": resize.resize,
}
"""Every one takes and gives floating-point values; nodes on other types stay opaque."""
