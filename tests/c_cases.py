"""Convolutions of every kind with weights in every encoding, and how their C code is compared."""

import dataclasses

import numpy as np
from typer.testing import CliRunner

import rsk_deploy as rsk
from rsk_deploy import reference
from rsk_deploy.cli.export import main
from rsk_deploy.comparing import compare, seeded_inputs
from rsk_deploy.ir import Conv, Declared, Dense, Graph, Input
from rsk_deploy.registry import regenerate


def export(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def fixed(graph, batch=1):
    """The network with one batch size."""
    return dataclasses.replace(graph, inputs=tuple(dataclasses.replace(entry, shape=entry.at(batch)) for entry in graph.inputs))


def agrees(run, graph, rtol=1e-4, seed=0):
    x = seeded_inputs(graph, seed=seed)
    return compare(lambda _: run(x), lambda _: reference.run(graph, x), {}, rtol=rtol)


def weight(format, shape, rng):
    """A weight in that encoding."""
    kernel = int(np.prod(shape[2:]))
    if format == "lfsr":
        values = rng.standard_normal(shape).astype(np.float32)
        declared = Declared("lfsr", {"seed": 3, "taps_per_kernel": min(2, kernel)})
        return Dense(np.where(regenerate(declared, shape).support, values, 0), declared)
    if format == "periodic":
        keep = rng.random((3, *shape[2:])) < 0.5
        keep[:, ..., 0] = True
        support = keep[(np.arange(shape[0])[:, None] + np.arange(shape[1])) % 3]
        return Dense(np.where(support, rng.standard_normal(shape), 0).astype(np.float32))
    return Dense(np.where(rng.random(shape) < 0.4, rng.standard_normal(shape), 0).astype(np.float32))


CASES = {
    "3x3": {"shape": (7, 5, 3, 3), "image": (9, 6), "pads": (1, 1, 1, 1)},
    "strided": {"shape": (8, 4, 3, 3), "image": (11, 12), "pads": (1, 0, 2, 1), "stride": (2, 3)},
    "dilated": {"shape": (5, 3, 3, 2), "image": (12, 9), "pads": (2, 1, 0, 3), "dilation": (2, 3)},
    "1x1 strided": {"shape": (6, 4, 1, 1), "image": (7, 7), "stride": (2, 2)},
    "grouped": {"shape": (12, 2, 3, 3), "image": (5, 5), "groups": 3, "pads": (1, 1, 1, 1)},
    "large kernel": {"shape": (3, 2, 7, 5), "image": (10, 20), "pads": (3, 2, 3, 2)},
    "pads wider than the image": {"shape": (3, 2, 3, 3), "image": (2, 2), "pads": (4, 3, 4, 3)},
    "many strips": {"shape": (4, 3, 3, 3), "image": (40, 33), "pads": (1, 1, 1, 1)},
}


def conv_net(format, names=CASES, half=False):
    """A network of separate convolutions, each with an input and an output of its own, all weights in one encoding."""
    rng = np.random.default_rng(len(format))
    inputs, layers = [], []
    for name in names:
        case = CASES[name]
        if format == "periodic" and name == "1x1 strided":
            continue  # a kernel of one tap has one pattern
        shape, groups = case["shape"], case.get("groups", 1)
        window = {"stride": case.get("stride", (1, 1)), "pads": case.get("pads", (0,) * 4), "dilation": case.get("dilation", (1, 1)), "groups": groups}
        bias = rng.standard_normal(shape[0]).astype(np.float32)
        inputs.append(Input(f"x {name}", (2, shape[1] * groups, *case["image"])))
        layers.append(Conv(name=name, inputs=(f"x {name}",), outputs=(f"y {name}",), weight=weight(format, shape, rng), bias=bias, **window))
    graph = Graph[Dense](tuple(inputs), tuple(layer.outputs[0] for layer in layers), tuple(layers))
    return rsk.pack(graph, {layer.name: format for layer in layers}, half=half)
