"""The oracle against torch and onnx.reference: every layer class, every kind, every mode."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from rsk_deploy import ir, reference
from rsk_deploy.errors import RskError, UnsupportedError, UsageError
from rsk_deploy.reference.operations import ACTIVATIONS, BINARIES, OPERATIONS, REDUCTIONS

torch.set_num_threads(1)
Array = NDArray[Any]


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def graph_of(layer: ir.Layer, *values: Array) -> ir.Graph[ir.Dense]:
    inputs = tuple(ir.Input(name, value.shape) for name, value in zip(layer.inputs, values, strict=True))
    return ir.Graph(inputs, layer.outputs, (layer,))


def run(kind: type[ir.Layer], /, *values: Array, dtype: type = np.float64, **fields: Any) -> Array:
    """One layer alone. The output has the shape that the graph promises and the precision asked for."""
    names = tuple("abcdefgh"[: len(values)])
    graph = graph_of(kind(name="layer", inputs=names, outputs=("y",), **fields), *values)
    y = reference.run(graph, dict(zip(names, values, strict=True)), dtype=dtype)["y"]
    assert y.shape == graph.shapes()["y"]
    assert y.dtype == dtype
    return y


def wide(array: Array) -> torch.Tensor:
    return torch.from_numpy(np.array(array, np.float64))


def close(found: Array, wanted: torch.Tensor | Array) -> None:
    np.testing.assert_allclose(found, np.asarray(wanted), rtol=1e-10, atol=1e-10)


def by_onnx(op: str, x: Array, *constants: Array | None, **attributes: Any) -> Array:
    names = ["x", *("" if value is None else f"c{index}" for index, value in enumerate(constants))]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            [onnx.helper.make_node(op, names, ["y"], **attributes)],
            "one",
            [onnx.helper.make_tensor_value_info("x", onnx.helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)],
            [onnx.helper.make_tensor_value_info("y", onnx.helper.np_dtype_to_tensor_dtype(x.dtype), None)],
            [onnx.numpy_helper.from_array(value, f"c{index}") for index, value in enumerate(constants) if value is not None],
        ),
        opset_imports=[onnx.helper.make_opsetid("", 19)],
    )
    return np.asarray(ReferenceEvaluator(model).run(None, {"x": x})[0])


def test_every_layer_class_but_opaque_has_an_operation() -> None:
    classes = {kind for kind in vars(ir).values() if isinstance(kind, type) and issubclass(kind, ir.Layer) and not kind.__subclasses__()}
    assert set(OPERATIONS) == classes - {ir.Opaque}
    assert set(ACTIVATIONS) == set(ir.ACTIVATIONS)
    assert set(BINARIES) == set(ir.BINARIES)
    assert set(REDUCTIONS) == set(ir.REDUCTIONS)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize(("stride", "pads", "dilation"), [((1, 1), (1, 1, 1, 1), (1, 1)), ((2, 1), (0, 2, 0, 2), (1, 2)), ((3, 2), (2, 0, 2, 0), (2, 1))])
def test_conv_is_torchs(groups: int, stride: tuple[int, int], pads: tuple[int, ...], dilation: tuple[int, int]) -> None:
    x, weight, bias = normal(2, 4, 9, 8), normal(8, 4 // groups, 3, 2, seed=1), normal(8, seed=2)
    found = run(ir.Conv, x, weight=ir.Dense(weight), bias=bias, stride=stride, pads=pads, dilation=dilation, groups=groups)
    close(found, F.conv2d(wide(x), wide(weight), wide(bias), stride, pads[:2], dilation, groups))


def test_conv_has_one_to_three_axes_and_asymmetric_pads() -> None:
    line, cube = normal(2, 3, 10), normal(1, 2, 5, 6, 4)
    weight, cubic = normal(4, 3, 3, seed=1), normal(3, 2, 2, 3, 1, seed=1)
    found = run(ir.Conv, line, weight=ir.Dense(weight), stride=(2,), pads=(3, 0), dilation=(1,))
    close(found, F.conv1d(F.pad(wide(line), (3, 0)), wide(weight), stride=2))
    found = run(ir.Conv, cube, weight=ir.Dense(cubic), stride=(1, 2, 1), pads=(0, 1, 0, 1, 2, 0), dilation=(1, 1, 1))
    close(found, F.conv3d(F.pad(wide(cube), (0, 0, 1, 2, 0, 1)), wide(cubic), stride=(1, 2, 1)))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(
    ("stride", "pads", "dilation", "extra"), [((1, 1), (0, 0), (1, 1), (0, 0)), ((2, 3), (1, 0), (1, 2), (1, 2)), ((2, 2), (1, 1), (2, 1), (0, 1))]
)
def test_conv_transpose_is_torchs(groups: int, stride: tuple[int, int], pads: tuple[int, int], dilation: tuple[int, int], extra: tuple[int, int]) -> None:
    x, weight, bias = normal(2, 4, 5, 4), normal(4, 3, 3, 2, seed=1), normal(3 * groups, seed=2)
    found = run(ir.ConvTranspose, x, weight=ir.Dense(weight), bias=bias, stride=stride, pads=pads * 2, dilation=dilation, output_pads=extra, groups=groups)
    close(found, F.conv_transpose2d(wide(x), wide(weight), wide(bias), stride, pads, extra, groups, dilation))


def test_linear_acts_on_the_last_axis() -> None:
    x, weight, bias = normal(2, 5, 4), normal(3, 4, seed=1), normal(3, seed=2)
    close(run(ir.Linear, x, weight=ir.Dense(weight), bias=bias), F.linear(wide(x), wide(weight), wide(bias)))
    close(run(ir.Linear, x, weight=ir.Dense(weight)), F.linear(wide(x), wide(weight)))


POOLS = [
    pytest.param((3, 2), (2, 2), (0, 0, 0, 0), False, id="plain"),
    pytest.param((3, 3), (2, 3), (1, 1, 1, 1), False, id="pads"),
    pytest.param((3, 3), (2, 3), (1, 1, 1, 1), True, id="ceil, last window dropped where it starts in the pad"),
    pytest.param((2, 2), (3, 2), (0, 1, 0, 1), True, id="ceil"),
]


@pytest.mark.parametrize(("kernel", "stride", "pads", "ceil"), POOLS)
def test_pools_are_torchs(kernel: tuple[int, int], stride: tuple[int, int], pads: tuple[int, ...], ceil: bool) -> None:
    fields: dict[str, Any] = {"kernel": kernel, "stride": stride, "pads": pads, "dilation": (1, 1), "ceil_mode": ceil}
    for x in (normal(2, 3, 9, 8), normal(2, 3, 10, 7) - 9):
        close(run(ir.MaxPool, x, **fields), F.max_pool2d(wide(x), kernel, stride, pads[:2], ceil_mode=ceil))
        for count_pads in (False, True):
            close(run(ir.AveragePool, x, count_pads=count_pads, **fields), F.avg_pool2d(wide(x), kernel, stride, pads[:2], ceil, count_pads))


def test_dilated_max_pool_is_torchs() -> None:
    x = normal(1, 2, 11, 10)
    found = run(ir.MaxPool, x, kernel=(3, 2), stride=(2, 2), pads=(1, 1, 1, 1), dilation=(2, 3), ceil_mode=True)
    close(found, F.max_pool2d(wide(x), (3, 2), 2, 1, (2, 3), ceil_mode=True))


@pytest.mark.parametrize("count_pads", [False, True])
def test_average_pool_with_asymmetric_pads_is_onnxs(count_pads: bool) -> None:
    x = normal(1, 2, 7, 6).astype(np.float64)
    wanted = by_onnx("AveragePool", x, kernel_shape=[3, 2], strides=[2, 2], pads=[0, 1, 2, 0], count_include_pad=int(count_pads))
    close(run(ir.AveragePool, x, kernel=(3, 2), stride=(2, 2), pads=(0, 1, 2, 0), dilation=(1, 1), count_pads=count_pads), wanted)


def test_average_over_pads_alone_is_zero() -> None:
    y = run(ir.AveragePool, np.ones((1, 1, 2), np.float32), kernel=(2,), stride=(2,), pads=(2, 0), dilation=(1,))
    assert y.tolist() == [[[0.0, 1.0]]]


ORACLES: dict[str, Any] = {
    "identity": lambda x, a, b: x,
    "relu": lambda x, a, b: F.relu(x),
    "sigmoid": lambda x, a, b: torch.sigmoid(x),
    "tanh": lambda x, a, b: torch.tanh(x),
    "silu": lambda x, a, b: F.silu(x),
    "gelu": lambda x, a, b: F.gelu(x),
    "gelu-tanh": lambda x, a, b: F.gelu(x, approximate="tanh"),
    "hard-swish": lambda x, a, b: F.hardswish(x),
    "softplus": lambda x, a, b: torch.logaddexp(x, torch.zeros_like(x)),
    "softsign": lambda x, a, b: F.softsign(x),
    "mish": lambda x, a, b: F.mish(x),
    "exp": lambda x, a, b: torch.exp(x),
    "log": lambda x, a, b: torch.log(x),
    "sqrt": lambda x, a, b: torch.sqrt(x),
    "abs": lambda x, a, b: torch.abs(x),
    "neg": lambda x, a, b: -x,
    "erf": lambda x, a, b: torch.erf(x),
    "reciprocal": lambda x, a, b: torch.reciprocal(x),
    "leaky-relu": lambda x, a, b: F.leaky_relu(x, a),
    "elu": lambda x, a, b: F.elu(x, a),
    "celu": lambda x, a, b: F.celu(x, a),
    "selu": lambda x, a, b: torch.where(x > 0, b * x, b * (a * torch.exp(x) - a)),
    "hard-sigmoid": lambda x, a, b: torch.clamp(a * x + b, 0, 1),
    "clip": lambda x, a, b: torch.clamp(x, a, b),
}


@pytest.mark.parametrize("kind", ir.ACTIVATIONS)
def test_activation_is_torchs(kind: str) -> None:
    x = np.concatenate([normal(2, 3, 40) * 4, np.full((2, 3, 1), -800), np.full((2, 3, 1), 800), np.zeros((2, 3, 1))], 2).astype(np.float32)
    for alpha, beta in ((0.3, 0.7), (1.25, 2.0)):
        close(run(ir.Activation, x, kind=kind, alpha=alpha, beta=beta), ORACLES[kind](wide(x), alpha, beta))


def test_selu_and_hard_sigmoid_take_onnxs_parameters() -> None:
    x = normal(2, 9).astype(np.float64)
    close(run(ir.Activation, x, kind="selu", alpha=1.5, beta=0.75), by_onnx("Selu", x, alpha=1.5, gamma=0.75))
    close(run(ir.Activation, x, kind="hard-sigmoid", alpha=1 / 6, beta=0.5), F.hardsigmoid(wide(x)))


def test_clip_may_be_open_on_one_side() -> None:
    assert run(ir.Activation, np.array([[-2, 5]], np.float32), kind="clip", alpha=-np.inf, beta=3.0).tolist() == [[-2, 3]]


@pytest.mark.parametrize("slope", [normal(3, seed=1), np.array([0.2], np.float32)], ids=["per channel", "one for all"])
def test_prelu_is_torchs(slope: Array) -> None:
    x = normal(2, 3, 4)
    close(run(ir.PRelu, x, slope=slope), F.prelu(wide(x), wide(slope)))


def test_norms_are_torchs() -> None:
    x, scale, shift = normal(2, 6, 4, 5), normal(6, seed=1), normal(6, seed=2)
    close(run(ir.Affine, x, scale=scale, shift=shift), wide(x) * wide(scale)[:, None, None] + wide(shift)[:, None, None])
    close(run(ir.GroupNorm, x, groups=3, scale=scale, shift=shift, epsilon=1e-3), F.group_norm(wide(x), 3, wide(scale), wide(shift), 1e-3))
    close(run(ir.GroupNorm, x, groups=6, scale=scale, shift=shift, epsilon=1e-3), F.instance_norm(wide(x), None, None, wide(scale), wide(shift), eps=1e-3))
    scale, shift = normal(4, 5, seed=1), normal(4, 5, seed=2)
    close(run(ir.LayerNorm, x, scale=scale, shift=shift, epsilon=1e-3), F.layer_norm(wide(x), (4, 5), wide(scale), wide(shift), 1e-3))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 12])
def test_lrn_is_onnxs(size: int) -> None:
    x = normal(4, 4, 3, 3).astype(np.float64)  # onnx.reference sums no more channels than the batch has images
    fields: dict[str, Any] = {"size": size, "alpha": size / 4, "beta": 0.75, "bias": 1.5}
    close(run(ir.LRN, x, **fields), by_onnx("LRN", x, **fields))


def test_odd_lrn_is_torchs() -> None:
    x = normal(2, 7, 3, 3)
    close(run(ir.LRN, x, size=5, alpha=0.5, beta=0.75, bias=1.5), F.local_response_norm(wide(x), 5, 0.5, 0.75, 1.5))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_softmax_is_torchs_and_does_not_overflow(axis: int) -> None:
    x = normal(3, 4, 5) * 1000
    close(run(ir.Softmax, x, axis=axis), torch.softmax(wide(x), axis))
    close(run(ir.Softmax, x, axis=axis, log=True), torch.log_softmax(wide(x), axis))


@pytest.mark.parametrize("kind", ir.BINARIES)
def test_binary_broadcasts_like_torch(kind: str) -> None:
    a, b = np.abs(normal(2, 1, 4)), normal(3, 1, seed=1)
    names = {"max": "maximum", "min": "minimum"}
    close(run(ir.Binary, a, b, kind=kind), getattr(torch, names.get(kind, kind))(wide(a), wide(b)))


def test_matmul_broadcasts_over_leading_axes() -> None:
    a, b = normal(2, 1, 3, 4), normal(5, 4, 2, seed=1)
    close(run(ir.MatMul, a, b), wide(a) @ wide(b))


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("kind", ir.REDUCTIONS)
def test_reduction_is_onnxs(kind: str, keep: bool) -> None:
    x = normal(2, 3, 4, 5).astype(np.float64)
    wanted = by_onnx({"l2": "ReduceL2"}.get(kind, f"Reduce{kind.title()}"), x, np.array([1, 3]), keepdims=int(keep))
    close(run(ir.Reduce, x, kind=kind, axes=(1, 3), keep_axes=keep), wanted)


def test_moves_are_numpys() -> None:
    x, y = normal(2, 3, 4), normal(2, 5, 4, seed=1)
    close(run(ir.Concat, x, y, axis=1), np.concatenate([x, y], 1))
    close(run(ir.Slice, x, axis=2, start=1, stop=4, step=2), x[:, :, 1:4:2])
    close(run(ir.Gather, x, axis=1, indices=np.array([2, 0, 2, 1])), x[:, [2, 0, 2, 1]])
    close(run(ir.Transpose, x, perm=(2, 0, 1)), x.transpose(2, 0, 1))
    close(run(ir.Reshape, x, target=(4, -1)), x.reshape(4, 6))


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
def test_pad_is_onnxs(mode: str) -> None:
    x = normal(2, 3, 4).astype(np.float64)
    pads = (0, 1, 2, 0, 2, 3)
    close(run(ir.Pad, x, pads=pads, mode=mode, value=1.5), by_onnx("Pad", x, np.array(pads), np.array(1.5), mode=mode))


COORDINATES = ("half-pixel", "pytorch-half-pixel", "align-corners", "asymmetric")
SIZES = [(7, 11), (3, 4), (1, 6), (10, 1)]


def resized_by_onnx(x: Array, sizes: tuple[int, int], mode: str, coordinates: str, **attributes: Any) -> Array:
    kind = {"half-pixel": "half_pixel", "pytorch-half-pixel": "pytorch_half_pixel", "align-corners": "align_corners"}.get(coordinates, coordinates)
    return by_onnx("Resize", x, None, None, np.array([*x.shape[:2], *sizes]), mode=mode, coordinate_transformation_mode=kind, **attributes)


def scales(x: Array, sizes: tuple[int, int]) -> tuple[float, ...]:
    return tuple(new / old for new, old in zip(sizes, x.shape[2:], strict=True))


@pytest.mark.parametrize(("coordinates", "sizes"), list(itertools.product(COORDINATES, SIZES)))
def test_linear_resize_is_onnxs(coordinates: str, sizes: tuple[int, int]) -> None:
    x = normal(1, 2, 5, 6).astype(np.float64)
    found = run(ir.Resize, x, sizes=sizes, scales=scales(x, sizes), mode="linear", coordinates=coordinates)
    close(found, resized_by_onnx(x, sizes, "linear", coordinates))


@pytest.mark.parametrize("rounding", ["floor", "ceil", "round-prefer-floor", "round-prefer-ceil"])
@pytest.mark.parametrize(("coordinates", "sizes"), list(itertools.product(COORDINATES, SIZES)))
def test_nearest_resize_is_onnxs(coordinates: str, sizes: tuple[int, int], rounding: str) -> None:
    x = normal(1, 2, 5, 6).astype(np.float64)
    found = run(ir.Resize, x, sizes=sizes, scales=scales(x, sizes), mode="nearest", coordinates=coordinates, rounding=rounding)
    close(found, resized_by_onnx(x, sizes, "nearest", coordinates, nearest_mode=rounding.replace("-", "_")))


def test_resize_is_torchs() -> None:
    x = normal(1, 2, 5, 6)
    size = (8, 9)
    fields: dict[str, Any] = {"sizes": size, "scales": scales(x, size)}
    close(run(ir.Resize, x, mode="nearest", coordinates="asymmetric", rounding="floor", **fields), F.interpolate(wide(x), size, mode="nearest"))
    close(run(ir.Resize, x, mode="linear", **fields), F.interpolate(wide(x), size, mode="bilinear", align_corners=False))
    close(run(ir.Resize, x, mode="linear", coordinates="align-corners", **fields), F.interpolate(wide(x), size, mode="bilinear", align_corners=True))


def test_resize_computes_coordinates_with_the_scales_it_is_given() -> None:
    x = normal(1, 2, 5, 6)
    found = run(ir.Resize, x, sizes=(8, 9), scales=(1.7, 1.6), mode="linear")
    close(found, F.interpolate(wide(x), scale_factor=(1.7, 1.6), mode="bilinear", recompute_scale_factor=False))


def test_resize_takes_a_rounded_scale_as_the_fraction_it_stands_for() -> None:
    """40 · 1.1 = 44; element 11 lies on element 10 exactly, whatever the rounding of 1.1 in float32."""
    x = np.arange(40, dtype=np.float32).reshape(1, 1, 40)
    for scale in (1.1, float(np.float32(1.1))):
        assert run(ir.Resize, x, sizes=(44,), scales=(scale,), mode="nearest", coordinates="asymmetric", rounding="floor")[0, 0, 11] == 10


def small() -> ir.Graph[ir.Dense]:
    relu = ir.Activation(name="relu", inputs=("x",), outputs=("r",), kind="relu")
    total = ir.Binary(name="total", inputs=("r", "z"), outputs=("y",), kind="add")
    return ir.Graph((ir.Input("x", ("batch", 3)), ir.Input("z", ("batch", 3))), ("y",), (relu, total))


def test_any_batch_size_fits_an_open_batch_and_inner_values_come_on_request() -> None:
    x, z = normal(7, 3), normal(7, 3, seed=1)
    found = reference.run(small(), {"x": x, "z": z}, values=["r", "x"])
    assert list(found) == ["y", "r", "x"]
    close(found["r"], np.maximum(x, 0))
    assert list(reference.run(small(), {"x": x, "z": z})) == ["y"]


def test_float32_stays_float32_throughout() -> None:
    x = normal(1, 4, 6, 6)
    fields: dict[str, Any] = {"scale": normal(4), "shift": normal(4), "epsilon": 1e-5}
    run(ir.GroupNorm, x, groups=2, dtype=np.float32, **fields)
    run(ir.LRN, x, size=3, alpha=0.1, beta=0.75, bias=1.0, dtype=np.float32)
    run(ir.Resize, x, sizes=(9, 9), scales=(1.5, 1.5), mode="linear", dtype=np.float32)
    for kind in ir.ACTIVATIONS:
        run(ir.Activation, x, kind=kind, alpha=0.5, beta=0.5, dtype=np.float32)


def test_integers_keep_the_dtype_that_the_graph_declares() -> None:
    shift = ir.Constant(name="one", inputs=(), outputs=("one",), values=np.array([1, 2]))
    total = ir.Binary(name="total", inputs=("x", "one"), outputs=("y",), kind="add")
    graph: ir.Graph[ir.Dense] = ir.Graph((ir.Input("x", (1, 2), "int64"),), ("y",), (shift, total))
    y = reference.run(graph, {"x": np.array([[1, 2]], np.int32)})["y"]
    assert y.dtype == np.int64
    assert y.tolist() == [[2, 4]]


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"x": np.ones((1, 3))}, "input 'z' is missing; the network reads x, z"),
    ({"x": np.ones((1, 3)), "z": np.ones((1, 3)), "w": 1}, "unknown input 'w'; the network reads x, z"),
    ({"x": np.ones((1, 4)), "z": np.ones((1, 3))}, "input 'x' has shape (1, 4); the network reads (batch, 3)"),
    ({"x": np.ones(()), "z": np.ones((1, 3))}, "input 'x' has shape (); the network reads (batch, 3)"),
    ({"x": np.ones((0, 3)), "z": np.ones((0, 3))}, "input 'x' has shape (0, 3); the network reads (batch, 3)"),
    ({"x": np.ones((1, 3)), "z": np.ones((2, 3))}, "input 'z' has batch size 2, the inputs before it 1"),
    ({"x": np.full((1, 3), "a"), "z": np.ones((1, 3))}, "input 'x' holds <U1, not numbers; the network reads float32"),
]


@pytest.mark.parametrize(("inputs", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_inputs_that_do_not_fit_are_refused(inputs: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        reference.run(small(), inputs)
    assert str(caught.value) == message


def test_a_value_that_the_network_does_not_compute_is_refused() -> None:
    graph = graph_of(ir.Activation(name="relu", inputs=("x",), outputs=("hidden",), kind="relu"), normal(1, 2))
    with pytest.raises(UsageError, match=r"^the network computes no value 'hiden'\. Did you mean 'hidden'\?$"):
        reference.run(graph, {"x": normal(1, 2)}, ["hiden"])


def test_an_opaque_node_is_refused_by_name_before_anything_runs() -> None:
    node = ir.Opaque(
        name="head.grid", inputs=("x",), outputs=("y",), origin="model.py:12", op="GridSample", node=b"", domain="", opset=20,
        output_shapes=((1, 2),), output_dtypes=("float32",),
    )  # fmt: skip
    with pytest.raises(UnsupportedError) as caught:
        reference.run(graph_of(node, normal(1, 2)), {})
    assert str(caught.value) == "head.grid: the reference cannot execute the ONNX operation GridSample (from model.py:12); only the ONNX export carries it"


def test_an_error_inside_a_layer_names_the_layer() -> None:
    weight = ir.Packed("no-such-format", (2, 3), {})
    graph: ir.Graph[ir.Packed] = ir.Graph((ir.Input("x", (1, 3)),), ("y",), (ir.Linear(name="head", inputs=("x",), outputs=("y",), weight=weight),))
    with pytest.raises(RskError, match=r"^head: unknown weight format 'no-such-format'"):
        reference.run(graph, {"x": normal(1, 3)})
