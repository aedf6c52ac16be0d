"""A small network with every kind of layer and every encoding: what the hostile files are made from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rsk_deploy import ir
from rsk_deploy.registry import format_named, regenerate

LFSR = {"scheme": "pattern", "width": 16, "seed": 7, "taps_per_kernel": 4}


def mask(format: str, shape: tuple[int, ...]) -> ir.Mask:
    """A mask that the encoding can hold: of its own family for a 3x3 kernel, an arbitrary one for others."""
    rng = np.random.default_rng(5)
    if format == "lfsr":
        return regenerate(ir.Declared("lfsr", LFSR), shape)
    if format == "periodic":
        return ir.Mask("one-pattern", np.broadcast_to(np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], bool), shape))
    if format == "pattern":
        return ir.Mask("regular", np.eye(9, dtype=bool)[rng.integers(0, 9, shape[:2])].reshape(shape))
    return ir.Mask("unstructured", np.ones(shape, bool) if format == "dense" else rng.random(shape) < 0.4)


def weight(format: str, shape: tuple[int, ...], dtype: str = "float32") -> ir.Packed:
    """Random values in that encoding."""
    kept = mask(format, shape)
    packed = format_named(format).encode(np.random.default_rng(len(format)).standard_normal(shape).astype(dtype), kept)
    choice = ir.Choice(kept.family, f"{kept.kept} of {kept.support.size}", "counted", {format: packed.nbytes}, f"{format} was asked for")
    return replace(packed, choice=choice)


def network(opaque: bool = True, formats: tuple[str, ...] = ("dense", "periodic", "lfsr", "pattern", "bitmask", "csr")) -> ir.Graph[ir.Packed]:
    """Every layer class, one after the other; ``opaque`` adds the one that nothing here can run."""
    ones = np.linspace(0.5, 1.5, 8, dtype=np.float32)
    pair = {"stride": (1, 1), "pads": (1, 1, 1, 1), "dilation": (1, 1)}
    window = {"kernel": (2, 2), "stride": (2, 2), "pads": (0, 0, 0, 0), "dilation": (1, 1)}
    steps = [
        *(
            (ir.Conv, f"conv.{name}", {"weight": weight(name, (8, 8, 3, 3), "float16" if name == "csr" else "float32"), "bias": ones, **pair})
            for name in formats
        ),
        (ir.ConvTranspose, "up", {"weight": weight("bitmask", (8, 8, 2, 2)), "stride": (2, 2), "pads": (0,) * 4, "dilation": (1, 1), "output_pads": (0, 0)}),
        (ir.Affine, "bn", {"scale": ones, "shift": -ones}),
        (ir.GroupNorm, "gn", {"groups": 4, "scale": ones, "shift": -ones, "epsilon": 1e-5}),
        (ir.LRN, "lrn", {"size": 3, "alpha": 1e-4, "beta": 0.75, "bias": 1.0}),
        (ir.MaxPool, "maxpool", {**window, "ceil_mode": True}),
        (ir.Activation, "relu6", {"kind": "clip", "alpha": -0.0, "beta": float("inf"), "origin": "net.py:12"}),
        (ir.PRelu, "prelu", {"slope": ones}),
        (ir.Pad, "pad", {"pads": (0, 0, 1, 1, 0, 0, 1, 1), "value": 0.1}),
        (ir.Slice, "slice", {"axis": 2, "start": 1, "stop": 9}),
        (ir.Gather, "shuffle", {"axis": 1, "indices": np.array([1, 0, 3, 2, 5, 4, 7, 6])}),
        (ir.Transpose, "transpose", {"perm": (0, 1, 3, 2)}),
        (ir.Resize, "resize", {"sizes": (15, 16), "scales": (1.25, 2.0), "mode": "nearest"}),
        (ir.AveragePool, "avgpool", {**window, "count_pads": True}),
        (ir.Softmax, "softmax", {"axis": 1}),
        (ir.LayerNorm, "ln", {"scale": ones, "shift": ones, "epsilon": 1e-6}),
        (ir.Reduce, "mean", {"kind": "mean", "axes": (2, 3)}),
        (ir.Reshape, "flatten", {"target": (-1, 8)}),
        (ir.Linear, "fc", {"weight": weight("dense", (8, 8)), "bias": ones}),
    ]
    layers: list[ir.Layer] = []
    value = "x"
    for kind, name, fields in steps:
        layers.append(kind(name=name, inputs=(value,), outputs=(f"{name}:0",), **fields))
        value = f"{name}:0"
    layers += [
        ir.Reshape(name="column", inputs=(value,), outputs=("column:0",), target=(-1, 8, 1)),
        ir.Reshape(name="row", inputs=(value,), outputs=("row:0",), target=(-1, 1, 8)),
        ir.MatMul(name="matmul", inputs=("column:0", "row:0"), outputs=("product",)),
        ir.Constant(name="fc.weight", inputs=(), outputs=("table",), values=np.eye(8, dtype=np.float32)),
        ir.Binary(name="add", inputs=("product", "table"), outputs=("sum",), kind="add"),
        ir.Concat(name="concat", inputs=("sum", "product"), outputs=("y",), axis=1),
    ]
    if opaque:
        described = {"op": "Det", "node": b"\x0a\x01y\xff", "domain": "", "opset": 17, "output_shapes": (("batch", 2),), "output_dtypes": ("float32",)}
        layers.append(ir.Opaque(name="det", inputs=("y",), outputs=("z",), **described))
    return ir.Graph[ir.Packed](
        (ir.Input("x", ("batch", 8, 8, 10)),),
        ("z" if opaque else "y",),
        tuple(layers),
        (ir.LogEntry("conv.pattern", "batch norm", "bn1 scaled 8 filters"),),
        {"classes": ["cat", "café"], "mean": [0.1, 0.2], "nested": {"none": None, "yes": True}},
    )
