"""The graph refuses what contradicts itself, in sentences; it cannot be changed; it knows when it equals another."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rsk_deploy import ir
from rsk_deploy.errors import CorruptFileError
from rsk_deploy.ir import weights
from rsk_deploy.ir.layers import sized

Array = NDArray[Any]


def ones(*shape: int) -> Array:
    return np.ones(shape, np.float32)


def one(kind: type[ir.Layer], /, *shapes: tuple[int, ...], **fields: Any) -> ir.Graph[ir.Dense]:
    """A network of one layer, on inputs of these shapes."""
    names = tuple("abcd"[: len(shapes)])
    fields = {"name": "layer", "inputs": names, "outputs": ("y",)} | fields
    inputs = tuple(ir.Input(name, shape) for name, shape in zip(names, shapes, strict=True))
    return ir.Graph(inputs, ("y",), (kind(**fields),))


CONV: dict[str, Any] = {"weight": ir.Dense(ones(4, 3, 3, 3)), "stride": (1, 1), "pads": (1, 1, 1, 1), "dilation": (1, 1)}
TRANSPOSED: dict[str, Any] = CONV | {"weight": ir.Dense(ones(3, 4, 3, 3)), "output_pads": (0, 0)}
POOL: dict[str, Any] = {"kernel": (3, 3), "stride": (2, 2), "pads": (0, 0, 0, 0), "dilation": (1, 1)}
OPAQUE: dict[str, Any] = {"op": "Foo", "node": b"", "domain": "", "opset": 18, "output_shapes": (("batch", 3),), "output_dtypes": ("float32",)}
IMAGE = (1, 3, 8, 8)

SHAPES: list[tuple[type[ir.Layer], tuple[tuple[int, ...], ...], dict[str, Any], tuple[int, ...]]] = [
    (ir.Conv, (IMAGE,), CONV | {"stride": (2, 1)}, (1, 4, 4, 8)),
    (ir.ConvTranspose, (IMAGE,), TRANSPOSED | {"stride": (2, 2), "output_pads": (1, 0), "pads": (1, 0, 0, 1)}, (1, 4, 17, 16)),
    (ir.Linear, ((2, 5, 3),), {"weight": ir.Dense(ones(4, 3))}, (2, 5, 4)),
    (ir.MaxPool, (IMAGE,), POOL, (1, 3, 3, 3)),
    (ir.MaxPool, (IMAGE,), POOL | {"ceil_mode": True}, (1, 3, 4, 4)),
    (ir.AveragePool, ((1, 3, 7, 7),), POOL | {"kernel": (2, 2), "pads": (1, 0, 1, 0), "ceil_mode": True}, (1, 3, 4, 4)),
    (ir.MatMul, ((2, 1, 3, 4), (5, 4, 2)), {}, (2, 5, 3, 2)),
    (ir.Binary, ((2, 1, 3), (4, 1)), {"kind": "add"}, (2, 4, 3)),
    (ir.Concat, ((1, 2, 3), (1, 5, 3)), {"axis": 1}, (1, 7, 3)),
    (ir.Slice, ((1, 9),), {"axis": 1, "start": 2, "stop": 9, "step": 3}, (1, 3)),
    (ir.Gather, ((1, 3),), {"axis": 1, "indices": np.array([2, 2, 0, 1])}, (1, 4)),
    (ir.Pad, ((1, 3),), {"pads": (0, 1, 2, 3)}, (3, 7)),
    (ir.Reshape, ((2, 3, 4),), {"target": (-1, 12)}, (2, 12)),
    (ir.Transpose, ((2, 3, 4),), {"perm": (2, 0, 1)}, (4, 2, 3)),
    (ir.Resize, (IMAGE,), {"sizes": (3, 9), "scales": (0.4, 1.2), "mode": "linear"}, (1, 3, 3, 9)),
    (ir.Reduce, (IMAGE,), {"kind": "mean", "axes": (2, 3)}, (1, 3, 1, 1)),
    (ir.Reduce, (IMAGE,), {"kind": "mean", "axes": (2, 3), "keep_axes": False}, (1, 3)),
    (ir.Constant, (), {"values": np.zeros((2, 3), np.int64)}, (2, 3)),
    (ir.Opaque, ((1, 2),), OPAQUE, (1, 3)),
]


@pytest.mark.parametrize(("kind", "shapes", "fields", "wanted"), SHAPES)
def test_a_layer_knows_the_shape_of_its_output(
    kind: type[ir.Layer], shapes: tuple[tuple[int, ...], ...], fields: dict[str, Any], wanted: tuple[int, ...]
) -> None:
    assert one(kind, *shapes, **fields).shapes()["y"] == wanted


REFUSED: list[tuple[type[ir.Layer], tuple[tuple[int, ...], ...], dict[str, Any], str]] = [
    (ir.Binary, ((1, 2),), {"kind": "add"}, "layer: has 1 inputs, not 2"),
    (ir.Softmax, ((1, 2),), {"axis": 1, "outputs": ("y", "z")}, "layer: has 2 outputs, not one"),
    (ir.Softmax, ((1, 2),), {"axis": 2}, "layer: axis 2 of an input of shape (1, 2)"),
    (ir.Softmax, ((1, 2),), {"axis": -1}, "layer: axis -1 of an input of shape (1, 2)"),
    (ir.Conv, (IMAGE,), CONV | {"weight": ir.Dense(ones(4, 3))}, "layer: weight of shape (4, 3) is no convolution kernel"),
    (ir.Conv, (IMAGE,), CONV | {"weight": ir.Dense(ones(4, 3, 0, 3))}, "layer: weight of shape (4, 3, 0, 3) is empty"),
    (ir.Conv, (IMAGE,), CONV | {"bias": ones(3)}, "layer: bias of shape (3,) for 4 filters"),
    (ir.Conv, (IMAGE,), CONV | {"stride": (1,)}, "layer: stride (1,) for 2 spatial axes"),
    (ir.Conv, (IMAGE,), CONV | {"dilation": (1, 0)}, "layer: dilation (1, 0) for 2 spatial axes"),
    (ir.Conv, (IMAGE,), CONV | {"pads": (0, 0, 0, -1)}, "layer: pads (0, 0, 0, -1) for 2 spatial axes"),
    (ir.Conv, (IMAGE,), CONV | {"groups": 3}, "layer: 4 filters in 3 groups"),
    (ir.Conv, (IMAGE,), CONV | {"groups": 0}, "layer: 4 filters in 0 groups"),
    (ir.Conv, (IMAGE,), CONV | {"groups": 2}, "layer: kernel (4, 3, 3, 3) in 2 groups does not fit an input of shape (1, 3, 8, 8)"),
    (ir.Conv, ((1, 3, 8),), CONV, "layer: kernel (4, 3, 3, 3) in 1 groups does not fit an input of shape (1, 3, 8)"),
    (ir.Conv, ((1, 3, 8, 1),), CONV | {"pads": (0,) * 4}, "layer: window of 3 does not fit the padded input of 1 along spatial axis 1"),
    (ir.Conv, (IMAGE,), CONV | {"pads": (10**400,) * 4}, "more than 2147483648 elements"),
    (ir.ConvTranspose, (IMAGE,), TRANSPOSED | {"weight": ir.Dense(ones(4, 3))}, "layer: weight of shape (4, 3) is no convolution kernel"),
    (ir.ConvTranspose, (IMAGE,), TRANSPOSED | {"groups": 2}, "layer: 3 channels in 2 groups"),
    (ir.ConvTranspose, (IMAGE,), TRANSPOSED | {"output_pads": (1,)}, "layer: output pads (1,)"),
    (ir.ConvTranspose, ((1, 2, 8, 8),), TRANSPOSED, "layer: kernel (3, 4, 3, 3) does not fit an input of shape (1, 2, 8, 8)"),
    (ir.ConvTranspose, ((1, 3, 1, 1),), TRANSPOSED | {"pads": (2,) * 4}, "layer: computes an empty value of shape (1, 4, -1, -1)"),
    (ir.Linear, ((1, 3),), {"weight": ir.Dense(ones(4, 3, 1))}, "layer: weight of shape (4, 3, 1) is no matrix"),
    (ir.Linear, ((1, 2),), {"weight": ir.Dense(ones(4, 3))}, "layer: a matrix for 3 inputs does not fit an input of shape (1, 2)"),
    (ir.Affine, ((1, 3),), {"scale": ones(3), "shift": ones(2)}, "layer: scale (3,) and shift (2,) for an input of shape (1, 3)"),
    (ir.LayerNorm, ((1, 3),), {"scale": ones(2), "shift": ones(2), "epsilon": 0.1}, "layer: scale (2,) and shift (2,) for an input of shape (1, 3)"),
    (
        ir.GroupNorm,
        ((1, 3),),
        {"scale": ones(2), "shift": ones(2), "epsilon": 0.1, "groups": 1},
        "layer: scale (2,) and shift (2,) for an input of shape (1, 3)",
    ),
    (ir.GroupNorm, ((1, 3),), {"scale": ones(3), "shift": ones(3), "epsilon": 0.1, "groups": 2}, "layer: 3 channels in 2 groups"),
    (ir.LRN, ((1, 3),), {"size": 0, "alpha": 1.0, "beta": 1.0, "bias": 1.0}, "layer: size 0 for an input of shape (1, 3)"),
    (ir.LRN, ((3,),), {"size": 1, "alpha": 1.0, "beta": 1.0, "bias": 1.0}, "layer: size 1 for an input of shape (3,)"),
    (ir.MaxPool, (IMAGE,), POOL | {"kernel": ()}, "has no spatial axes"),
    (ir.MaxPool, (IMAGE,), POOL | {"kernel": (0, 3)}, "layer: kernel (0, 3)"),
    (ir.MaxPool, ((1, 3, 8),), POOL, "layer: needs 2 spatial axes, its input has 1"),
    (ir.Activation, ((1, 3),), {"kind": "relu7"}, "layer: unknown activation 'relu7'"),
    (ir.PRelu, ((1, 3),), {"slope": ones(2)}, "layer: slope of shape (2,) for an input of shape (1, 3)"),
    (ir.Binary, ((1, 2), (1, 2)), {"kind": "xor"}, "layer: unknown operation 'xor'"),
    (ir.Binary, ((1, 2), (1, 3)), {"kind": "add"}, "layer: shapes (1, 2) and (1, 3) do not broadcast"),
    (ir.MatMul, ((1, 2), (3, 1)), {}, "layer: shapes (1, 2) and (3, 1) do not multiply"),
    (ir.MatMul, ((2, 1, 2), (3, 2, 1)), {}, "layer: shapes (2, 1, 2) and (3, 2, 1) do not broadcast"),
    (ir.Concat, (), {"axis": 0}, "layer: shapes [] do not join along axis 0"),
    (ir.Concat, ((1, 2), (1, 2, 3)), {"axis": 1}, "layer: shapes [(1, 2), (1, 2, 3)] do not join along axis 1"),
    (ir.Concat, ((1, 2), (2, 2)), {"axis": 1}, "layer: shapes [(1, 2), (2, 2)] do not join along axis 1"),
    (ir.Slice, ((1, 3),), {"axis": 2, "start": 0, "stop": 1}, "layer: axis 2 of an input of shape (1, 3)"),
    (ir.Slice, ((1, 3),), {"axis": 1, "start": 1, "stop": 4, "step": 1}, "layer: slice 1:4:1 of axis 1 of (1, 3)"),
    (ir.Gather, ((1, 3),), {"axis": 1, "indices": np.zeros((1, 1), np.int64)}, "layer: axis 1 of an input of shape (1, 3)"),
    (ir.Gather, ((1, 3),), {"axis": 1, "indices": np.array([0, 3])}, "layer: index outside axis 1 of (1, 3)"),
    (ir.Pad, ((1, 3),), {"pads": (0,) * 4, "mode": "wrap"}, "layer: unknown pad mode 'wrap'"),
    (ir.Pad, ((1, 3),), {"pads": (0, -1, 0, 0)}, "layer: pads (0, -1, 0, 0) for an input of shape (1, 3)"),
    (ir.Pad, ((1, 3),), {"pads": (0, 3, 0, 0), "mode": "reflect"}, "layer: reflecting pads (0, 3, 0, 0) for an input of shape (1, 3)"),
    (ir.Reshape, ((1, 6),), {"target": (-1, -1)}, "layer: target (-1, -1)"),
    (ir.Reshape, ((1, 6),), {"target": (0, 6)}, "layer: target (0, 6)"),
    (ir.Reshape, ((1, 6),), {"target": (-1, 4)}, "layer: (1, 6) does not reshape to (-1, 4)"),
    (ir.Reshape, ((1, 6),), {"target": (1, 3)}, "layer: (1, 6) does not reshape to (1, 3)"),
    (ir.Transpose, ((1, 6),), {"perm": (1, 1)}, "layer: permutation (1, 1) of an input of shape (1, 6)"),
    (ir.Resize, (IMAGE,), {"sizes": (2, 2), "scales": (0.2, 0.2), "mode": "cubic"}, "layer: unknown resize mode 'cubic'"),
    (ir.Resize, (IMAGE,), {"sizes": (2, 2), "scales": (0.2, 0.2), "mode": "linear", "coordinates": "polar"}, "layer: unknown coordinates 'polar'"),
    (ir.Resize, (IMAGE,), {"sizes": (2, 2), "scales": (0.2, 0.2), "mode": "linear", "rounding": "up"}, "layer: unknown rounding 'up'"),
    (ir.Resize, (IMAGE,), {"sizes": (2,), "scales": (0.2,), "mode": "linear"}, "layer: sizes (2,) and scales (0.2,) for an input of shape (1, 3, 8, 8)"),
    (ir.Resize, ((1, 3, 8),), {"sizes": (2,), "scales": (np.inf,), "mode": "linear"}, "layer: sizes (2,) and scales (inf,) for an input of shape (1, 3, 8)"),
    (ir.Reduce, (IMAGE,), {"kind": "median", "axes": (1,)}, "layer: unknown reduction 'median'"),
    (ir.Reduce, (IMAGE,), {"kind": "mean", "axes": (1, 1)}, "layer: axes (1, 1) of an input of shape (1, 3, 8, 8)"),
    (ir.Reduce, (IMAGE,), {"kind": "mean", "axes": ()}, "layer: axes () of an input of shape (1, 3, 8, 8)"),
    (ir.Opaque, ((1, 2),), OPAQUE | {"outputs": ("y", "z")}, "layer: 2 outputs, 1 shapes"),
]


@pytest.mark.parametrize(("kind", "shapes", "fields", "message"), REFUSED, ids=[f"{kind.__name__}: {message}" for kind, _, _, message in REFUSED])
def test_a_layer_refuses_what_contradicts_it(kind: type[ir.Layer], shapes: tuple[tuple[int, ...], ...], fields: dict[str, Any], message: str) -> None:
    with pytest.raises(CorruptFileError) as caught:
        one(kind, *shapes, **fields)
    assert str(caught.value).endswith(message)


def relu(name: str, source: str, value: str) -> ir.Activation:
    return ir.Activation(name=name, inputs=(source,), outputs=(value,), kind="relu")


X = ir.Input("x", ("batch", 3))
CONTRADICTIONS: list[tuple[tuple[ir.Input, ...], tuple[str, ...], tuple[ir.Layer, ...], str]] = [
    ((X,), ("b",), (relu("r", "x", "a"), relu("r", "a", "b")), "the layer name 'r' is used more than once"),
    ((X,), ("a",), (relu("r", "x", "a"), relu("s", "x", "a")), "the value name 'a' is used more than once"),
    ((X,), ("x",), (relu("r", "x", "x"),), "the value name 'x' is used more than once"),
    ((X,), ("b",), (relu("r", "b", "a"), relu("s", "a", "b")), "r: reads 'b', which no earlier layer computes"),
    ((X,), ("z",), (relu("r", "x", "a"),), "output 'z' is computed by no layer"),
    ((ir.Input("x", ("N", 3)),), ("x",), (), "input 'x' has shape ('N', 3); only the first dimension may be open, as 'batch'"),
    ((ir.Input("x", (1, "batch")),), ("x",), (), "input 'x' has shape (1, 'batch'); only the first dimension may be open, as 'batch'"),
]


@pytest.mark.parametrize(("inputs", "outputs", "layers", "message"), CONTRADICTIONS, ids=[message for *_, message in CONTRADICTIONS])
def test_a_graph_refuses_what_contradicts_it(inputs: tuple[ir.Input, ...], outputs: tuple[str, ...], layers: tuple[ir.Layer, ...], message: str) -> None:
    with pytest.raises(CorruptFileError) as caught:
        ir.Graph(inputs, outputs, layers)
    assert str(caught.value) == message


@pytest.mark.parametrize("shape", [(0, 3), ("batch", -1), (1 << 20, 1 << 20)])
def test_a_graph_refuses_inputs_that_no_machine_holds(shape: tuple[int | str, ...]) -> None:
    with pytest.raises(CorruptFileError, match=r"^input x: "):
        ir.Graph((ir.Input("x", shape),), ("x",), ())


def test_values_that_no_machine_holds_are_refused_before_memory_is() -> None:
    assert sized((1 << 15, 1 << 16)) == (1 << 15, 1 << 16)
    with pytest.raises(CorruptFileError, match=r"^computes a value of shape \(32768, 65537\): more than 2147483648 elements$"):
        sized((1 << 15, (1 << 16) + 1))


def test_the_batch_is_open_where_an_input_says_so() -> None:
    graph: ir.Graph[ir.Dense] = ir.Graph((X, ir.Input("fixed", (1, 3))), ("s",), (ir.Binary(name="s", inputs=("x", "fixed"), outputs=("s",), kind="add"),))
    assert graph.dynamic
    assert graph.shapes(5) == {"x": (5, 3), "fixed": (1, 3), "s": (5, 3)}
    assert not replace(graph, inputs=(ir.Input("x", (2, 3)), graph.inputs[1])).dynamic


def test_rewriting_keeps_the_rest_and_adds_to_the_log() -> None:
    graph: ir.Graph[ir.Dense] = ir.Graph((X,), ("a",), (relu("r", "x", "a"),), (ir.LogEntry("r", "read", ""),), {"labels": ["cat"]})
    changed = graph.with_layers((relu("s", "x", "a"),), ir.LogEntry("s", "renamed", "from r"))
    assert changed == replace(graph, layers=(relu("s", "x", "a"),), log=(ir.LogEntry("r", "read", ""), ir.LogEntry("s", "renamed", "from r")))
    assert list(changed.weighted()) == []


def test_equality_is_bit_for_bit_and_by_class() -> None:
    zero, one_, nan = np.zeros(2, np.float32), np.ones(2, np.float32), np.full(2, np.nan, np.float32)
    assert ir.Dense(nan) == ir.Dense(nan.copy())
    for other in (-zero, one_, zero.astype(np.float64), zero.reshape(1, 2)):
        assert ir.Dense(zero) != ir.Dense(other)
    assert ir.Dense(zero) != ir.Mask("m", zero.astype(bool))
    linear = ir.Linear(name="fc", inputs=("x",), outputs=("y",), weight=ir.Dense(ones(2, 3)))
    assert linear != replace(linear, bias=zero)
    assert replace(linear, bias=zero) != linear
    assert replace(linear, bias=zero) == replace(linear, bias=zero.copy())
    packed = ir.Packed("csr", (2, 3), {"values": one_, "index": np.arange(2)}, {"nested": {"a": [1]}})
    assert packed == ir.Packed("csr", (2, 3), {"index": np.arange(2), "values": one_}, {"nested": {"a": [1]}})
    assert packed != replace(packed, params={"nested": {"a": [2]}})
    assert packed != replace(packed, arrays={"values": one_})


@pytest.mark.parametrize("value", [ir.Dense(ones(2)), ir.Mask("m", np.ones(2, bool)), one(ir.Softmax, (1, 2), axis=1)], ids=["Dense", "Mask", "Graph"])
def test_what_holds_arrays_has_no_hash(value: Any) -> None:
    with pytest.raises(TypeError):
        hash(value)


def test_nothing_can_be_changed_and_the_callers_array_stays_writable() -> None:
    mine = np.zeros((3, 2), np.float32)
    dense, mask = ir.Dense(mine), ir.Mask("m", np.ones((3, 2), bool))
    packed = ir.Packed("dense", (3, 2), {"values": mine})
    layer = ir.Affine(name="bn", inputs=("x",), outputs=("y",), scale=mine[:, 0], shift=mine[:, 1])
    for array in (dense.values, mask.support, packed.arrays["values"], layer.scale, layer.shift):
        assert array.flags.c_contiguous
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    with pytest.raises(TypeError):
        packed.arrays["values"] = mine  # type: ignore[index]  # what is tried
    with pytest.raises(FrozenInstanceError):
        dense.values = mine  # type: ignore[misc]  # what is tried
    mine[0] = 1


def test_a_scalar_stays_a_scalar() -> None:
    assert weights.frozen(np.array(1.0)).shape == ()


def test_weights_count_themselves() -> None:
    assert ir.Packed("csr", (2, 3), {"values": np.zeros(3, np.float16), "index": np.zeros(2, np.int32)}).nbytes == 14
    assert ir.Mask("m", np.array([[True, False], [True, True]])).kept == 3
    assert ir.Dense(ones(2, 3)).shape == (2, 3)
