"""Comparing two networks: what counts as equal, and where they part."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rsk_deploy import ir
from rsk_deploy.comparing import Comparison, compare, first_bad_layer, seeded_inputs
from rsk_deploy.errors import UsageError

Array = NDArray[Any]


def chain(broken: str = "", inputs: tuple[ir.Input, ...] = (ir.Input("x", ("batch", 3)),)) -> ir.Graph[ir.Dense]:
    """Two branches from one matrix and their sum; the layer ``broken`` has another weight."""

    def linear(name: str, source: str) -> ir.Linear[ir.Dense]:
        return ir.Linear(name=name, inputs=(source,), outputs=(f"{name}.out",), weight=ir.Dense(np.eye(3, dtype=np.float32) * (2 if name == broken else 1)))

    total = ir.Binary(name="total", inputs=("left.out", "right.out"), outputs=("y",), kind="add")
    return ir.Graph(inputs, ("y",), (linear("stem", "x"), linear("left", "stem.out"), linear("right", "stem.out"), total))


def constantly(**outputs: Array) -> Any:
    return lambda _inputs: outputs


def one(a: Array, b: Array, **tolerance: Any) -> Any:
    (output,) = compare(constantly(y=a), constantly(y=b), {}, **tolerance).outputs
    return output


def test_a_network_agrees_with_itself() -> None:
    result = compare(chain(), chain())
    assert result.passed
    assert result.first_bad_layer is None
    assert (result.outputs[0].name, result.outputs[0].max_abs, result.outputs[0].top1_agreement) == ("y", 0.0, 1.0)


@pytest.mark.parametrize("broken", ["stem", "left", "right"])
def test_the_first_layer_that_differs_is_named(broken: str) -> None:
    result = compare(chain(broken), chain(), np.ones((1, 3)))
    assert not result.passed
    assert result.first_bad_layer == broken
    assert str(result).endswith(f"\nThe first layer that differs is {broken}.")


def test_values_that_one_side_does_not_know_are_passed_over() -> None:
    good, bad = {"stem.out": np.zeros(3), "y": np.zeros(3)}, {"left.out": np.ones(3), "y": np.ones(3)}
    assert first_bad_layer(chain(), good, bad) == "total"
    assert first_bad_layer(chain(), good, {"left.out": np.ones(3)}) is None


def test_the_figures_are_what_they_say() -> None:
    output = one(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[1.0, 0.5], [4.0, 0.0]]))
    assert output.max_abs == 4.0
    assert output.max_rel == 1.0
    assert output.mean_abs == (0.5 + 4 + 1) / 4
    assert output.top1_agreement == 0.5
    assert not output.ok


def test_the_tolerance_scales_with_the_largest_element_of_the_tensor() -> None:
    b = np.array([1000.0, 0.0])
    assert one(b + np.array([0, 0.9]), b, atol=0, rtol=1e-3).ok
    assert not one(b + np.array([0, 1.1]), b, atol=0, rtol=1e-3).ok
    assert one(b + np.array([0, 0.1]), b, atol=0.1, rtol=0).ok
    assert not one(b + np.array([0, 0.11]), b, atol=0.1, rtol=0).ok


def test_nothing_infinite_or_undefined_passes_unless_both_have_it() -> None:
    special = np.array([np.nan, np.inf, -np.inf, 1.0])
    assert one(special, special).ok
    for position in range(3):
        plain = special.copy()
        plain[position] = 1.0
        assert not one(plain, special).ok
        assert not one(special, plain).ok
    assert one(special, -special).max_abs == np.inf


def test_another_shape_differs() -> None:
    assert not one(np.zeros((1, 2)), np.zeros((2, 1))).ok


def test_a_difference_from_zero_is_infinitely_large_relative_to_it() -> None:
    assert one(np.ones(1), np.zeros(1)).max_rel == np.inf
    assert one(np.zeros(1), np.zeros(1)).max_rel == 0.0


def test_the_table_has_a_line_for_each_output() -> None:
    result = compare(constantly(scores=np.ones((2, 3)), mask=np.zeros(1)), constantly(scores=np.ones((2, 3)), mask=np.ones(1)), {})
    assert str(result).splitlines() == [
        "output    max abs    max rel   mean abs    top-1",
        "scores   0.00e+00   0.00e+00   0.00e+00  100.00%  agrees",
        "mask     1.00e+00   1.00e+00   1.00e+00           DIFFERS",
    ]
    assert str(Comparison(())) == "output    max abs    max rel   mean abs    top-1"


def test_seeded_inputs_are_reproducible_and_of_the_declared_dtype() -> None:
    graph = chain(inputs=(ir.Input("x", ("batch", 3)), ir.Input("ids", ("batch", 50), "int64"), ir.Input("fixed", (1, 2))))
    first, again, other = seeded_inputs(graph, 4), seeded_inputs(graph, 4), seeded_inputs(graph, 4, seed=1)
    assert [(name, x.shape, x.dtype.name) for name, x in first.items()] == [("x", (4, 3), "float32"), ("ids", (4, 50), "int64"), ("fixed", (1, 2), "float32")]
    assert set(first["ids"].ravel()) == {0, 1}
    assert all(first[name].tobytes() == again[name].tobytes() for name in first)
    assert first["x"].tobytes() != other["x"].tobytes()


@pytest.mark.parametrize(
    ("a", "b", "x", "message"),
    [
        (constantly(), constantly(), None, "two functions say nothing of their inputs; give x as a mapping from input names to arrays"),
        (
            chain(inputs=(ir.Input("x", (1, 3)), ir.Input("z", (1, 3)))),
            constantly(),
            np.ones((1, 3)),
            "the network reads x, z; give x as a mapping from these names to arrays",
        ),
        (chain(), constantly(z=np.ones(1)), None, "the first network computes y; the second z: only the same outputs compare"),
    ],
)
def test_what_cannot_be_compared_is_refused(a: Any, b: Any, x: Any, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        compare(a, b, x)
    assert str(caught.value) == message
