"""Where a file comes from, without a clock, a user or a path."""

import getpass
import hashlib
import importlib.metadata
from dataclasses import replace

import numpy as np
import pytest
from hostile.rsk_model import network, weight

from rsk_deploy.ir import Graph, Packed
from rsk_deploy.provenance import provenance, tool_version, weights_sha256
from rsk_deploy.registry import FORMATS, format_named


@pytest.fixture(scope="module")
def graph():
    return network()


def with_weights(graph, change):
    return replace(graph, layers=tuple(change(layer) if hasattr(layer, "weight") else layer for layer in graph.layers))


def as_bitmask(layer):
    values = format_named(layer.weight.format).decode(layer.weight)
    bits = np.packbits(values != 0, bitorder="little")
    return replace(layer, weight=Packed("bitmask", values.shape, {"values": values[values != 0], "bits": bits}))


def test_it_counts_masks_formats_and_folds(graph):
    told = provenance(graph, opset=17, half=False)
    assert told["tool"] == "rsk-deploy"
    assert told["tool_version"] == importlib.metadata.version("rsk-deploy")
    assert list(told["options"].items()) == [("half", False), ("opset", 17)]
    assert told["masks"] == {"lfsr": 1, "one-pattern": 1, "regular": 1, "unstructured": 5}
    assert told["formats"] == {"bitmask": 2, "csr": 1, "dense": 2, "lfsr": 1, "pattern": 1, "periodic": 1}
    assert told["log"] == {"batch norm": 1}


def test_it_names_no_user_and_no_path(graph, tmp_path, monkeypatch):
    first = provenance(graph)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("USER", "somebody-else")
    assert provenance(graph) == first
    assert not {"/", getpass.getuser(), "somebody-else"} & set(str(first).split())


def test_the_hash_is_of_shapes_decoded_weights_and_biases_in_order(graph):
    digest = hashlib.sha256()
    for layer in graph.weighted():
        values = format_named(layer.weight.format).decode(layer.weight)
        digest.update(str(values.shape).encode() + values.tobytes())
        digest.update(b"" if layer.bias is None else str(layer.bias.shape).encode() + layer.bias.tobytes())
    assert weights_sha256(graph) == digest.hexdigest()


def test_the_hash_does_not_depend_on_the_encoding(graph):
    assert weights_sha256(with_weights(graph, as_bitmask)) == weights_sha256(graph)


@pytest.mark.parametrize("format", FORMATS)
def test_the_hash_sees_a_single_bit_of_every_encoding(graph, format):
    def flip(layer):
        if layer.name != f"conv.{format}":
            return layer
        values = layer.weight.arrays["values"].copy()
        values[0] = np.nextafter(values[0], values.dtype.type(9))
        return replace(layer, weight=replace(layer.weight, arrays={**layer.weight.arrays, "values": values}))

    assert weights_sha256(with_weights(graph, flip)) != weights_sha256(graph)


def test_a_graph_without_weights_has_a_hash_too():
    assert weights_sha256(Graph((), (), ())) == hashlib.sha256().hexdigest()


def test_an_uninstalled_tool_says_so(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    tool_version.cache_clear()
    try:
        assert tool_version() == "unknown"
    finally:
        tool_version.cache_clear()


def test_weights_of_every_format_are_counted_under_their_name(graph):
    assert {layer.weight.format for layer in graph.weighted()} == set(FORMATS)
    assert weight("dense", (4, 4)).choice.mask == "unstructured"
