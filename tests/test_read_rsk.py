"""A ``.rsk`` file as a model: read back bit by bit, or refused."""

import numpy as np
import pytest

import rsk_deploy as rsk
from rsk_deploy.errors import CorruptFileError, UsageError
from rsk_deploy.ir import Conv, Dense, Graph, Input


@pytest.fixture
def saved(tmp_path):
    values = np.where(np.arange(4 * 3 * 9).reshape(4, 3, 3, 3) % 2, np.float32(1.5), np.float32(0))
    window = {"stride": (1, 1), "pads": (0, 0, 0, 0), "dilation": (1, 1)}
    conv = Conv(name="conv", inputs=("x",), outputs=("y",), weight=Dense(values), bias=np.ones(4, np.float32), **window)
    rsk.save(rsk.pack(Graph[Dense]((Input("x", (1, 3, 8, 8)),), ("y",), (conv,))), tmp_path / "net.rsk")
    return tmp_path / "net.rsk", values


def test_a_file_is_read_back_bit_by_bit(saved):
    path, values = saved
    (layer,) = rsk.read(path).layers
    np.testing.assert_array_equal(layer.weight.values, values)


@pytest.mark.parametrize("what", [np.float32(1.5), np.float32(1)], ids=["weight", "bias"])
def test_a_file_whose_numbers_have_changed_is_refused(saved, what):
    path, _ = saved
    data = bytearray(path.read_bytes())
    data[data.rindex(what.tobytes())] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptFileError, match=r"net.rsk: its weights have the SHA-256 [0-9a-f]{64}, and had [0-9a-f]{64} when it was written. Some of"):
        rsk.read(path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dynamic_batch": True}, "net.rsk: was packed for a fixed batch size. For --dynamic batch export"),
        ({"input_shape": (1, 3, 9, 8)}, r"net.rsk: input 'x' has shape \(1, 3, 8, 8\) in the file; \(1, 3, 9, 8\) is asked"),
        ({"input_shape": (3, 8, 8)}, r"\(3, 8, 8\) is asked"),
        ({"input_shape": {"z": (1, 3, 8, 8)}}, "an input shape is given for 'z'; the inputs are x"),
        ({"arch": "cnn6"}, "--arch changes nothing here: .*net.rsk holds a network without training-time layers. Leave it out"),
        ({"rsk_mode": "topk"}, "--rsk changes nothing here"),
    ],
)
def test_an_option_that_the_file_cannot_follow_is_refused(saved, options, said):
    path, _ = saved
    with pytest.raises(UsageError, match=said):
        rsk.read(path, **options)


def test_the_shape_that_the_file_has_may_be_given(saved):
    path, _ = saved
    assert rsk.read(path, input_shape=(1, 3, 8, 8)).inputs[0].shape == (1, 3, 8, 8)
