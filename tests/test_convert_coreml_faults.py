"""A package that computes something else than the network is refused, whatever in it is wrong: the interpreter shares nothing with the writer."""

from dataclasses import replace

import numpy as np
import pytest
from test_convert_coreml import NORMAL, pictures
from test_convert_onnx import small_net
from test_mlprogram import WEIGHTS, edited
from test_verify import source

from rsk_deploy.converters import coreml
from rsk_deploy.errors import RskError, VerificationError
from rsk_deploy.verify import Written, verify_file


def accepted_until(change, graph, path, error=VerificationError, **options):
    """Write the package, verify it, change it, and see it refused."""
    file = Written(path, coreml, graph, coreml.write(graph, path, **options))
    verify_file(file, source(graph))
    change(path)
    with pytest.raises(error):
        verify_file(file, source(graph))


def places(path, name, key):
    """The bytes of a parameter in the file of weights: where they begin, and how many there are."""
    found = []
    edited(path, lambda model, operations, block: found.append(held(operations[name], key).blobFileValue.offset))
    content = (path / WEIGHTS).read_bytes()
    size, start = (int.from_bytes(content[found[0] + at : found[0] + at + 8], "little") for at in (8, 16))
    return start, size


def held(operation, key):
    return operation.attributes[key] if key in operation.attributes else operation.inputs[key].arguments[0].value


def stored(name, key, change):
    """A change of a parameter's bytes."""

    def run(path):
        start, size = places(path, name, key)
        content = bytearray((path / WEIGHTS).read_bytes())
        content[start : start + size] = change(np.frombuffer(content[start : start + size], np.uint8)).tobytes()
        (path / WEIGHTS).write_bytes(content)

    return run


def listed(change):
    """A change of the model's messages."""
    return lambda path: edited(path, change)


def flipped(data):
    return data ^ np.eye(1, data.size, 3, dtype=np.uint8)[0]


def moved(data):
    """One kept place is another."""
    bits = np.unpackbits(data)
    kept = int(np.flatnonzero(bits[:-8] & ~np.roll(bits, -1)[:-8] & 1)[0])
    bits[[kept, kept + 1]] = bits[[kept + 1, kept]]
    return np.packbits(bits)


def mirrored(data):
    """Bits in the other order."""
    return np.packbits(np.unpackbits(data, bitorder="big"), bitorder="little")


def turned(data):
    """Halves of numbers in another order."""
    return data.view(np.uint16)[::-1].copy().view(np.uint8)


@pytest.mark.parametrize("target", ["ios16", "ios18"])
@pytest.mark.parametrize(
    ("key", "change", "error"),
    [("mask", flipped, RskError), ("mask", moved, VerificationError), ("mask", mirrored, VerificationError), ("nonzero_data", turned, VerificationError)],
)
def test_weights_at_other_places_or_in_another_order_are_found(key, change, error, target, tmp_path):
    accepted_until(stored("right_weight", key, change), small_net(), tmp_path / "net.mlpackage", error, target=target)


@pytest.mark.parametrize(
    ("compress", "key"),
    [("int8", "nonzero_data"), ("int8", "data_mask"), ("palettised", "indices_nonzero_data"), ("palettised", "lut"), ("palettised", "indices_mask")],
)
def test_wrong_codes_of_compressed_weights_are_found(compress, key, tmp_path):
    change = stored("right_kept_1", key, moved if "mask" in key else lambda data: data ^ np.uint8(0x24))
    accepted_until(change, small_net(), tmp_path / "net.mlpackage", compress=compress)


def ints(name):
    return lambda operations: operations[name].attributes["val"].immediateValue.tensor.ints.values


def numbers(name, change):
    def run(model, operations, block):
        values = ints(name)(operations)
        values[:] = change(list(values))

    return run


def negated(model, operations, block):
    value = operations["l_bias_0"].attributes["val"].immediateValue.tensor.bytes
    value.values = (-np.frombuffer(value.values, np.float16)).tobytes()


def crossed(model, operations, block):
    operations["both"].inputs["values"].arguments[0].name, operations["both"].inputs["values"].arguments[1].name = "r", "l"


@pytest.mark.parametrize(
    "change",
    [
        numbers("l_strides_0", lambda values: [2, 2]),
        numbers("l_pad_0", lambda values: [0, 2, 1, 1]),
        numbers("pooled_strides_0", lambda values: [1, 2]),
        numbers("averaged_axes_0", lambda values: [3, 2][:1]),
        negated,
        crossed,
    ],
)
def test_another_stride_pad_sign_or_order_is_found(change, tmp_path):
    accepted_until(listed(change), small_net(), tmp_path / "net.mlpackage", RskError)


def other_order(model, operations, block):
    image = model.description.input[0].type.imageType
    image.colorSpace = {20: 30, 30: 20}[image.colorSpace]


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_channels_in_another_order_are_found(order, tmp_path):
    accepted_until(listed(other_order), pictures(3, {**NORMAL, "order": order}), tmp_path / "net.mlpackage", input_type="image")


@pytest.mark.parametrize(("name", "change"), [("scale", lambda values: values[::-1]), ("shift", lambda values: [-value for value in values])])
def test_pixels_scaled_otherwise_than_the_preprocessing_says_are_found(name, change, tmp_path, monkeypatch):
    graph, path = pictures(3, NORMAL), tmp_path / "net.mlpackage"
    right = coreml.preprocessing

    def wrong(entry, meta):
        said = right(entry, meta)
        return replace(said, **{name: change(getattr(said, name))})

    monkeypatch.setattr(coreml, "preprocessing", wrong)
    with pytest.raises(VerificationError):
        verify_file(Written(path, coreml, graph, coreml.write(graph, path, input_type="image")), source(graph))
