"""How far two networks are apart, output by output, and where they part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rsk_deploy import reference
from rsk_deploy.errors import UsageError
from rsk_deploy.ir import Graph
from rsk_deploy.registry import Runner

Array = NDArray[Any]
Values: TypeAlias = Mapping[str, Array]


@dataclass(frozen=True, kw_only=True)
class OutputComparison:
    """One output of two networks.

    ``max_rel`` is the largest difference over the largest magnitude of the second network's output; ``top1_agreement``
    the share of rows with the same largest element, for outputs of two axes. Infinite where shapes or NaNs differ.
    """

    name: str
    max_abs: float
    max_rel: float
    mean_abs: float
    top1_agreement: float | None
    ok: bool


@dataclass(frozen=True)
class Comparison:
    """Every output of two networks, and the first layer that differs, where both are graphs and some output does."""

    outputs: tuple[OutputComparison, ...]
    first_bad_layer: str | None = None

    @property
    def passed(self) -> bool:
        """Whether every output agrees within the tolerance."""
        return all(output.ok for output in self.outputs)

    def __str__(self) -> str:
        width = max(len(name) for name in ["output", *(output.name for output in self.outputs)])
        lines = [f"{'output':{width}}  {'max abs':>9}  {'max rel':>9}  {'mean abs':>9}  {'top-1':>7}"]
        for output in self.outputs:
            top1 = "" if output.top1_agreement is None else f"{output.top1_agreement:.2%}"
            numbers = f"{output.max_abs:9.2e}  {output.max_rel:9.2e}  {output.mean_abs:9.2e}  {top1:>7}"
            lines.append(f"{output.name:{width}}  {numbers}  {'agrees' if output.ok else 'DIFFERS'}")
        if self.first_bad_layer is not None:
            lines.append(f"The first layer that differs is {self.first_bad_layer}.")
        return "\n".join(lines)


def compare(
    a: Graph[Any] | Runner, b: Graph[Any] | Runner, x: Values | Array | None = None, *, atol: float = 1e-7, rtol: float = 1e-4, seed: int = 0
) -> Comparison:
    """Compare what ``a`` and ``b`` compute from ``x`` (inputs by name, or one array; None: seeded random inputs).

    An output agrees when ``|a - b| <= atol + rtol · max|b|`` everywhere. The scale is the tensor's, not the element's:
    rounding errors of a sum are as large as its terms, so an element that cancels to almost 0 carries the error of its
    large neighbours, and an element-wise relative bound would refuse correct results.
    """
    inputs = _inputs(a, b, x, seed)
    found, wanted = _run(a, inputs), _run(b, inputs)
    if sorted(found) != sorted(wanted):
        raise UsageError(f"the first network computes {', '.join(sorted(found))}; the second {', '.join(sorted(wanted))}: only the same outputs compare")
    outputs = tuple(compared(name, found[name], wanted[name], atol, rtol) for name in wanted)
    bad = None
    if isinstance(a, Graph) and isinstance(b, Graph) and not all(output.ok for output in outputs):
        names = [name for layer in b.layers for name in layer.outputs if name in a.shapes()]
        bad = first_bad_layer(b, reference.run(b, inputs, names), reference.run(a, inputs, names), atol=atol, rtol=rtol)
    return Comparison(outputs, bad)


def first_bad_layer(graph: Graph[Any], reference_values: Values, other_values: Values, *, atol: float = 1e-7, rtol: float = 1e-4) -> str | None:
    """Name the first layer, in topological order, whose output differs: of what it reads, all that both sides know agrees."""
    for layer in graph.layers:
        for name in layer.outputs:
            if name in reference_values and name in other_values and not compared(name, other_values[name], reference_values[name], atol, rtol).ok:
                return layer.name
    return None


def seeded_inputs(graph: Graph[Any], batch: int = 1, seed: int = 0) -> dict[str, Array]:
    """Draw inputs: standard normal, or zeros and ones where the network reads integers."""
    generator = np.random.default_rng(seed)
    return {
        entry.name: (generator.standard_normal(entry.at(batch)) if entry.dtype.startswith("float") else generator.integers(0, 2, entry.at(batch))).astype(
            entry.dtype
        )
        for entry in graph.inputs
    }


def _inputs(a: Graph[Any] | Runner, b: Graph[Any] | Runner, x: Values | Array | None, seed: int) -> Values:
    if isinstance(x, Mapping):
        return x
    graph = next((side for side in (a, b) if isinstance(side, Graph)), None)
    if graph is None:
        raise UsageError("two functions say nothing of their inputs; give x as a mapping from input names to arrays")
    if x is None:
        return seeded_inputs(graph, batch=2, seed=seed)
    if len(graph.inputs) != 1:
        raise UsageError(f"the network reads {', '.join(entry.name for entry in graph.inputs)}; give x as a mapping from these names to arrays")
    return {graph.inputs[0].name: x}


def _run(network: Graph[Any] | Runner, inputs: Values) -> Values:
    return reference.run(network, inputs) if isinstance(network, Graph) else network(inputs)


def compared(name: str, a: Array, b: Array, atol: float, rtol: float) -> OutputComparison:
    """One value of two networks."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape:
        return OutputComparison(name=name, max_abs=np.inf, max_rel=np.inf, mean_abs=np.inf, top1_agreement=None, ok=False)
    with np.errstate(invalid="ignore"):
        difference = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
    difference[np.isnan(difference)] = np.inf
    largest = float(difference.max(initial=0.0))
    scale = float(np.abs(b[np.isfinite(b)]).max(initial=0.0))
    return OutputComparison(
        name=name,
        max_abs=largest,
        max_rel=largest / scale if scale else np.inf if largest else 0.0,
        mean_abs=float(difference.mean()) if difference.size else 0.0,
        top1_agreement=float(np.mean(a.argmax(1) == b.argmax(1))) if b.ndim == 2 and b.size else None,
        ok=largest <= atol + rtol * scale,
    )
