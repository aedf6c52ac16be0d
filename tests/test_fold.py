"""Folding: the same function with fewer layers, exactly once, and zeros stay zeros."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rsk_deploy import ir, reference
from rsk_deploy.errors import CorruptFileError
from rsk_deploy.fold import fold
from rsk_deploy.ir import LogEntry

Array = NDArray[Any]
IMAGE = ir.Input("x", ("batch", 4, 6, 5))


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def sparse(*shape: int, seed: int = 0) -> ir.Dense:
    values = normal(*shape, seed=seed)
    values[np.random.default_rng(seed + 1).random(shape) < 0.5] = 0
    return ir.Dense(values)


def conv(name: str, source: str, filters: int = 6, channels: int = 4, *, groups: int = 1, pad: int = 1, bias: bool = False) -> ir.Conv[ir.Dense]:
    return ir.Conv(
        name=name, inputs=(source,), outputs=(f"{name}.out",), weight=sparse(filters, channels // groups, 3, 3), bias=normal(filters, seed=9) if bias else None,
        stride=(1, 1), pads=(pad,) * 4, dilation=(1, 1), groups=groups,
    )  # fmt: skip


def conv_transpose(name: str, source: str, filters: int = 6, channels: int = 4, *, groups: int = 1) -> ir.ConvTranspose[ir.Dense]:
    return ir.ConvTranspose(
        name=name, inputs=(source,), outputs=(f"{name}.out",), weight=sparse(channels, filters // groups, 3, 3), bias=normal(filters, seed=9),
        stride=(2, 2), pads=(1,) * 4, dilation=(1, 1), output_pads=(1, 0), groups=groups,
    )  # fmt: skip


def linear(name: str, source: str, outputs: int, inputs: int) -> ir.Linear[ir.Dense]:
    return ir.Linear(name=name, inputs=(source,), outputs=(f"{name}.out",), weight=sparse(outputs, inputs))


def norm(name: str, source: str, channels: int, *, shift: bool = True) -> ir.Affine:
    zeros = np.zeros(channels, np.float32)
    return ir.Affine(name=name, inputs=(source,), outputs=(f"{name}.out",), scale=normal(channels, seed=3), shift=normal(channels, seed=4) if shift else zeros)


def constant(name: str, values: Any) -> ir.Constant:
    return ir.Constant(name=name, inputs=(), outputs=(name,), values=np.asarray(values, np.float32))


def binary(name: str, kind: str, *sources: str) -> ir.Binary:
    return ir.Binary(name=name, inputs=sources, outputs=(f"{name}.out",), kind=kind)


def relu(name: str, source: str) -> ir.Activation:
    return ir.Activation(name=name, inputs=(source,), outputs=(f"{name}.out",), kind="relu")


def network(*layers: ir.Layer, outputs: tuple[str, ...] = (), inputs: tuple[ir.Input, ...] = (IMAGE,)) -> ir.Graph[ir.Dense]:
    return ir.Graph(inputs, outputs or layers[-1].outputs, layers)


def checked(graph: ir.Graph[ir.Dense]) -> ir.Graph[ir.Dense]:
    """The folded graph, once it is shown to compute the same, to be folded for good, and to have no new nonzero."""
    folded = fold(graph)
    inputs = {entry.name: np.random.default_rng(0).standard_normal(entry.at(3)) for entry in graph.inputs}
    kept = [name for layer in folded.layers for name in layer.outputs if name in graph.shapes()]
    before, after = reference.run(graph, inputs, kept), reference.run(folded, inputs, kept)
    for name, wanted in before.items():
        np.testing.assert_allclose(after[name], wanted, rtol=0, atol=1e-6 * max(1e-30, np.abs(wanted).max()), err_msg=name)
    assert fold(folded) == folded
    assert (folded.inputs, folded.outputs, folded.meta) == (graph.inputs, graph.outputs, graph.meta)
    weights = {layer.name: layer.weight for layer in graph.weighted()}
    for layer in folded.weighted():
        assert layer.weight.values.dtype == np.float32
        assert not (layer.weight.values[weights[layer.name].values == 0]).any()
        assert not np.signbit(layer.weight.values[layer.weight.values == 0]).any()
        assert layer.weight.declared == weights[layer.name].declared
    return folded


def kinds(graph: ir.Graph[ir.Dense]) -> list[str]:
    return [type(layer).__name__ for layer in graph.layers]


PRODUCERS = [
    pytest.param(conv("c", "x"), id="conv"),
    pytest.param(conv("c", "x", bias=True, groups=2), id="grouped conv with bias"),
    pytest.param(conv("c", "x", filters=8, groups=4), id="depthwise conv"),
    pytest.param(conv_transpose("c", "x"), id="transposed conv"),
    pytest.param(conv_transpose("c", "x", groups=2), id="grouped transposed conv"),
]


@pytest.mark.parametrize("layer", PRODUCERS)
def test_batch_norm_folds_into_the_weights_before_it(layer: ir.Weighted[ir.Dense]) -> None:
    folded = checked(network(layer, norm("bn", "c.out", layer.filters)))
    assert [(entry.name, entry.outputs) for entry in folded.layers] == [("c", ("bn.out",))]
    assert folded.log == (LogEntry("c", "batch norm", f"bn scaled {layer.filters} filters"),)


CONSUMERS = [
    pytest.param(conv("c", "bn.out", pad=0), True, id="conv without pads"),
    pytest.param(conv("c", "bn.out", pad=0, groups=2, bias=True), True, id="grouped conv without pads"),
    pytest.param(conv("c", "bn.out", groups=2), False, id="grouped conv with pads, no shift"),
    pytest.param(conv_transpose("c", "bn.out"), False, id="transposed conv, no shift"),
    pytest.param(conv_transpose("c", "bn.out", groups=2), False, id="grouped transposed conv, no shift"),
]


@pytest.mark.parametrize(("layer", "shift"), CONSUMERS)
def test_batch_norm_folds_into_the_weights_after_it(layer: ir.Weighted[ir.Dense], shift: bool) -> None:
    folded = checked(network(norm("bn", "x", 4, shift=shift), layer))
    assert [(entry.name, entry.inputs, entry.outputs) for entry in folded.layers] == [("c", ("x",), ("c.out",))]
    assert folded.log == (LogEntry("c", "batch norm", "bn scaled 4 inputs"),)


@pytest.mark.parametrize("layer", [conv("c", "bn.out"), conv_transpose("c", "bn.out")], ids=["conv with pads", "transposed conv"])
def test_a_shift_stays_where_it_does_not_reach_every_tap(layer: ir.Layer) -> None:
    folded = checked(network(norm("bn", "x", 4), layer))
    assert kinds(folded)[0] == "Affine"
    assert folded.log == (LogEntry("bn", "kept", "it follows the input, which has no weight, and no weight after it can take it exactly"),)


def test_batch_norm_folds_into_a_linear_layer_on_either_side() -> None:
    row = (ir.Input("x", ("batch", 4)),)
    assert kinds(checked(network(linear("fc", "x", 3, 4), norm("bn", "fc.out", 3), inputs=row))) == ["Linear"]
    assert kinds(checked(network(norm("bn", "x", 4), linear("fc", "bn.out", 3, 4), inputs=row))) == ["Linear"]


def test_batch_norm_folds_through_a_flattening() -> None:
    flat = ir.Reshape(name="flat", inputs=("bn.out",), outputs=("flat.out",), target=(-1, 120))
    folded = checked(network(norm("bn", "x", 4), flat, linear("fc", "flat.out", 3, 120)))
    assert kinds(folded) == ["Reshape", "Linear"]
    assert "flat.out" not in folded.shapes()


def test_batch_norm_over_another_axis_than_a_linear_layers_stays() -> None:
    sequence = (ir.Input("x", ("batch", 4, 5)),)
    after = checked(network(linear("fc", "x", 5, 5), norm("bn", "fc.out", 4), inputs=sequence))
    assert after.log == (LogEntry("bn", "kept", "its channels are not those of fc"),)
    assert kinds(checked(network(norm("bn", "x", 4), linear("fc", "bn.out", 5, 5), inputs=sequence))) == ["Affine", "Linear"]


def test_batch_norm_stays_where_others_read_what_it_reads() -> None:
    layers = (conv("c", "x"), norm("bn", "c.out", 6), binary("sum", "add", "c.out", "bn.out"))
    assert checked(network(*layers)).log == (LogEntry("bn", "kept", "the output of c is read by 2 layers"),)
    assert checked(network(*layers[:2], outputs=("c.out", "bn.out"))).log == (LogEntry("bn", "kept", "the output of c is also an output of the network"),)


def test_batch_norms_in_a_row_become_one() -> None:
    folded = checked(network(relu("r", "x"), norm("bn1", "r.out", 4), norm("bn2", "bn1.out", 4), norm("bn3", "bn2.out", 4)))
    assert kinds(folded) == ["Activation", "Affine"]
    assert folded.log[:2] == (LogEntry("bn2", "batch norm", "bn1 merged into it"), LogEntry("bn3", "batch norm", "bn2 merged into it"))
    assert kinds(checked(network(conv("c", "x"), norm("bn1", "c.out", 6), norm("bn2", "bn1.out", 6)))) == ["Conv"]


@pytest.mark.parametrize("kind", ["add", "sub", "mul", "div"])
@pytest.mark.parametrize("values", [normal(4, 1, 1, seed=5), normal(1, 4, 1, 1, seed=5), np.float32(1.7)], ids=["(C, 1, 1)", "(1, C, 1, 1)", "scalar"])
def test_arithmetic_with_a_constant_per_channel_is_batch_norm(kind: str, values: Array) -> None:
    orders: list[tuple[str, str]] = [("c.out", "k"), ("k", "c.out")]
    for sources in orders:
        folded = checked(network(constant("k", values), conv("c", "x", 4), binary("b", kind, *sources)))
        assert kinds(folded) == (["Constant", "Conv", "Binary"] if kind == "div" and sources[0] == "k" else ["Conv"])
    folded = checked(network(constant("k", values), relu("r", "x"), binary("b", kind, "r.out", "k")))
    assert kinds(folded)[-1] == ("Binary" if values.ndim == 0 else "Affine")


@pytest.mark.parametrize("values", [normal(5), normal(4, 6, 5), normal(2, 1, 1, 1), normal(1, 1, 6, 1), np.zeros(()), np.full((), np.nan)], ids=str)
def test_arithmetic_with_another_constant_stays(values: Array) -> None:
    inputs = (ir.Input("x", (2, 4, 6, 5)),)
    graph = network(constant("k", values), conv("c", "x"), conv("d", "c.out", 4, 6), binary("b", "div", "d.out", "k"), inputs=inputs)
    assert kinds(fold(graph)) == ["Constant", "Conv", "Conv", "Binary"]


def test_a_constant_that_grows_the_value_stays() -> None:
    inputs = (ir.Input("x", ("batch", 1, 6, 5)),)
    assert kinds(checked(network(constant("k", normal(4, 1, 1)), relu("r", "x"), binary("b", "mul", "r.out", "k"), inputs=inputs))) == [
        "Constant",
        "Activation",
        "Binary",
    ]


def test_a_layer_scale_folds_into_the_linear_layer_before_it_also_through_a_transposition() -> None:
    last = (constant("k", normal(7)), linear("fc", "x", 7, 5), binary("b", "mul", "fc.out", "k"))
    assert kinds(checked(network(*last))) == ["Linear"]
    turn = ir.Transpose(name="turn", inputs=("fc.out",), outputs=("turned",), perm=(0, 3, 1, 2))
    folded = checked(network(constant("k", normal(7, 1, 1)), linear("fc", "x", 7, 5), turn, binary("b", "mul", "turned", "k")))
    assert kinds(folded) == ["Linear", "Transpose"]
    assert folded.layers[-1].outputs == ("b.out",)
    assert "fc.out" not in folded.shapes()
    assert "turned" not in folded.shapes()


def test_layers_without_effect_and_without_readers_go() -> None:
    moves = (
        ir.Activation(name="drop", inputs=("x",), outputs=("a",), kind="identity"),
        ir.Reshape(name="same", inputs=("a",), outputs=("b",), target=(-1, 4, 6, 5)),
        ir.Transpose(name="still", inputs=("b",), outputs=("d",), perm=(0, 1, 2, 3)),
        ir.Pad(name="none", inputs=("d",), outputs=("e",), pads=(0,) * 8),
        ir.Slice(name="all", inputs=("e",), outputs=("f",), axis=2, start=0, stop=6),
    )
    folded = checked(network(*moves, relu("unread", "f"), relu("unread too", "unread.out"), binary("b", "add", "f", "x")))
    assert [(layer.name, layer.inputs) for layer in folded.layers] == [("b", ("x", "x"))]
    assert [entry for entry in folded.log if entry.layer == "unread"] == [LogEntry("unread", "removed", "no output depends on it")]
    assert [entry for entry in folded.log if entry.layer == "drop"] == [LogEntry("drop", "removed", "its output is its input")]


def test_layers_that_do_something_at_another_batch_size_stay() -> None:
    first = ir.Slice(name="first", inputs=("x",), outputs=("y",), axis=0, start=0, stop=1)
    assert kinds(fold(network(first, relu("r", "y")))) == ["Slice", "Activation"]


def test_a_layer_without_effect_stays_where_it_names_an_output() -> None:
    assert kinds(checked(network(relu("r", "x"), ir.Activation(name="i", inputs=("r.out",), outputs=("y",), kind="identity")))) == ["Activation", "Activation"]


def test_zero_pads_become_the_convolutions_own() -> None:
    pad = ir.Pad(name="pad", inputs=("x",), outputs=("p",), pads=(0, 0, 1, 2, 0, 0, 0, 3))
    folded = checked(network(pad, conv("c", "p", pad=1)))
    assert kinds(folded) == ["Conv"]
    assert next(iter(folded.weighted())).pads == (2, 3, 1, 4)  # type: ignore[attr-defined]  # it is a Conv
    assert folded.log == (LogEntry("c", "pads", "pad added (1, 2, 0, 3)"),)


@pytest.mark.parametrize("change", [{"value": 1.0}, {"mode": "edge"}, {"pads": (0, 1, 0, 0, 0, 1, 0, 0)}], ids=str)
def test_other_pads_stay(change: dict[str, Any]) -> None:
    pad = replace(ir.Pad(name="pad", inputs=("x",), outputs=("p",), pads=(0, 0, 1, 1, 0, 0, 1, 1)), **change)
    assert kinds(checked(network(pad, conv("c", "p", channels=6 if "pads" in change else 4)))) == ["Pad", "Conv"]


def test_a_shift_after_pads_folds_but_one_before_them_stays() -> None:
    pads = (0, 0, 1, 1, 0, 0, 1, 1)
    after = (ir.Pad(name="pad", inputs=("x",), outputs=("p",), pads=pads), norm("bn", "p", 4), conv("c", "bn.out", pad=0))
    assert kinds(checked(network(*after))) == ["Conv"]
    before = (norm("bn", "x", 4), ir.Pad(name="pad", inputs=("bn.out",), outputs=("p",), pads=pads), conv("c", "p", pad=0))
    assert kinds(checked(network(*before))) == ["Affine", "Conv"]


def test_a_scale_of_zero_leaves_the_shift() -> None:
    zero = replace(norm("bn", "c.out", 6), scale=np.zeros(6, np.float32))
    (layer,) = checked(network(conv("c", "x"), zero)).weighted()
    assert not layer.weight.values.any()
    assert layer.bias is not None
    assert layer.bias.tobytes() == zero.shift.tobytes()


def test_a_declared_mask_and_the_layers_own_fields_stay() -> None:
    layer = replace(conv("c", "x", groups=2), weight=replace(sparse(6, 2, 3, 3), declared=ir.Declared("regular", {"kept": 4})), origin="net.py:3")
    (folded,) = checked(network(layer, norm("bn", "c.out", 6))).weighted()
    assert replace(folded, weight=layer.weight, bias=None, outputs=layer.outputs) == layer


def test_a_constant_added_to_a_layer_leaves_its_weight_bit_for_bit() -> None:
    layer = conv("c", "x")
    (folded,) = checked(network(constant("k", normal(6, 1, 1)), layer, binary("b", "add", "c.out", "k"))).weighted()
    assert folded.weight == layer.weight


@pytest.mark.parametrize(("field", "value"), [("scale", np.nan), ("scale", np.inf), ("shift", -np.inf)])
def test_batch_norm_that_is_not_finite_is_refused(field: str, value: float) -> None:
    bad = norm("bn", "c.out", 6)
    values = getattr(bad, field).copy()
    values[2] = value
    bad = replace(bad, **{field: values})
    with pytest.raises(CorruptFileError) as caught:
        fold(network(conv("c", "x"), bad))
    assert str(caught.value) == (
        f"bn: the batch norm has scale {bad.scale[2]} and shift {bad.shift[2]} at channel 2; both must be finite"
        " (a running variance below 0, or training that diverged)"
    )


def test_weights_that_overflow_are_refused() -> None:
    huge = replace(norm("bn", "c.out", 6), scale=np.full(6, 3e38, np.float32))
    layer = replace(conv("c", "x"), weight=ir.Dense(np.full((6, 4, 3, 3), 10, np.float32)))
    with pytest.raises(CorruptFileError, match=r"^c: has weights or a batch norm whose product is not finite in float32; the largest is 3e\+39$"):
        fold(network(layer, huge))


@pytest.mark.timeout(20)
def test_a_long_chain_folds_in_linear_time() -> None:
    scalars = [binary(f"b{index}", "mul", f"b{index - 1}.out" if index else "x", "k") for index in range(3000)]
    assert kinds(fold(network(constant("k", 1.0), *scalars, conv("c", "b2999.out", pad=0)))) == ["Conv"]
    assert kinds(
        fold(
            network(
                constant("k", 1.0),
                conv("b-1", "x"),
                *[replace(layer, inputs=("b-1.out" if i == 0 else layer.inputs[0], "k")) for i, layer in enumerate(scalars)],
            )
        )
    ) == ["Conv"]


def random_network(seed: int) -> ir.Graph[ir.Dense]:
    """A few layers of every kind that folding knows, reading any value before them; one or two outputs, perhaps inner ones."""
    random = np.random.default_rng(seed)
    layers: list[ir.Layer] = []
    channels = {"x": 4}

    def add(layer: ir.Layer, filters: int) -> None:
        layers.append(layer)
        channels[layer.outputs[0]] = filters

    for index in range(9):
        name = f"l{index}"
        source = list(channels)[-1] if random.random() < 0.8 else str(random.choice(list(channels)))
        c = channels[source]
        kind = random.choice(["conv", "norm", "norm", "constant", "relu", "identity", "pad", "turn", "transposed", "scale"])
        if kind == "conv":
            groups = int(random.choice([1, 2]))
            add(
                conv(
                    name,
                    source,
                    int(random.choice([4, 6])),
                    c,
                    groups=groups,
                    pad=int(random.integers(1, 3)) if random.random() < 0.5 else 0,
                    bias=bool(random.integers(2)),
                ),
                0,
            )
            channels[f"{name}.out"] = layers[-1].weight.shape[0]  # type: ignore[attr-defined]  # it is a Conv
        elif kind == "transposed":
            add(conv_transpose(name, source, 6, c, groups=2), 6)
        elif kind in ("norm", "scale"):
            add(norm(name, source, c, shift=kind == "norm"), c)
        elif kind == "constant":
            values = random.standard_normal((c, 1, 1) if random.random() < 0.7 else ())
            layers.append(constant(f"{name}.k", values))
            add(binary(name, str(random.choice(["add", "sub", "mul"])), *random.permutation([source, f"{name}.k"]).tolist()), c)
        elif kind == "pad":
            add(ir.Pad(name=name, inputs=(source,), outputs=(f"{name}.out",), pads=(0, 0, 1, 0, 0, 0, 2, 1)), c)
        elif kind == "turn":
            add(ir.Transpose(name=name, inputs=(source,), outputs=(f"{name}.out",), perm=(0, 1, 3, 2) if random.random() < 0.7 else (0, 1, 2, 3)), c)
        else:
            add(ir.Activation(name=name, inputs=(source,), outputs=(f"{name}.out",), kind=str(kind)), c)
    value = list(channels)[-1]
    size = int(np.prod(ir.Graph((ir.Input("x", ("batch", 4, 12, 12)),), (value,), tuple(layers)).shapes()[value][1:]))
    layers.append(ir.Reshape(name="flat", inputs=(value,), outputs=("flat.out",), target=(-1, size)))
    layers += [linear("fc", "flat.out", 5, size), norm("last", "fc.out", 5)]
    outputs = ["last.out", *([str(random.choice(list(channels)[1:]))] if random.random() < 0.3 else [])]
    return ir.Graph((ir.Input("x", ("batch", 4, 12, 12)),), tuple(outputs), tuple(layers), meta={"labels": ["a"]})


@pytest.mark.parametrize("decade", range(10))
def test_folding_any_network_changes_nothing_but_rounding(decade: int) -> None:
    folded_away = 0
    for seed in range(decade * 20, decade * 20 + 20):
        try:
            graph = random_network(seed)
        except CorruptFileError:  # the windows outgrew the image
            continue
        folded_away += len(graph.layers) - len(checked(graph).layers)
    assert folded_away > 40
