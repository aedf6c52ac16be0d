"""A wrong ONNX file ends in one of our errors, soon and in little memory."""

from __future__ import annotations

import contextlib
import resource
import time
from pathlib import Path

import numpy as np
import pytest
from hostile import onnx_files
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import ModelProto

from rsk_deploy.errors import CorruptFileError, RskError, UnsafeFileError
from rsk_deploy.readers import ReadOptions
from rsk_deploy.readers.onnx import read

SECONDS, MEGABYTES = 5, 1500


@pytest.mark.parametrize("name", onnx_files.HOSTILE)
def test_a_hostile_file_is_refused_with_an_error_of_ours(name: str, tmp_path: Path) -> None:
    path = onnx_files.write(name, tmp_path)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(RskError) as caught:
        read(path, ReadOptions())
    assert time.process_time() - start < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEGABYTES * 1024
    assert str(path) in str(caught.value)
    outside = ("external data outside the folder", "external data at an absolute path", "external data behind a link")
    assert not name.startswith(outside) or isinstance(caught.value, UnsafeFileError)


def test_external_data_of_a_node_is_looked_for_beside_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "here.bin").write_bytes(bytes(432))
    (tmp_path / "model" / "net.onnx").write_bytes(onnx_files.external_in_a_node("here.bin").SerializeToString())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CorruptFileError, match="no such file beside the model"):
        read(tmp_path / "model" / "net.onnx", ReadOptions())


def test_the_file_that_the_hostile_ones_are_made_of_is_read() -> None:
    source = read(onnx_files.valid(), ReadOptions(dynamic_batch=True))
    assert source.run({"x": np.zeros((3, 3, 8, 8), np.float32)})["y"].shape == (3, 5)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_file_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(onnx_files.valid().SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged.onnx"
    path.write_bytes(content[: data.draw(st.integers(1, len(content)))] if data.draw(st.booleans()) else content)
    with contextlib.suppress(RskError):
        read(path, ReadOptions())


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_file_with_swapped_parts_is_read_or_refused(data: st.DataObject) -> None:
    model: ModelProto = onnx_files.valid()
    node = data.draw(st.sampled_from(list(model.graph.node)))
    names = ["x", "", *(name for other in model.graph.node for name in [*other.input, *other.output])]
    node.op_type = data.draw(
        st.sampled_from(
            ["Conv", "Add", "Reshape", "Gather", "Slice", "MatMul", "Relu", "Resize", "Pad", "Split", "Expand", "Where", "LayerNormalization", node.op_type]
        )
    )
    if data.draw(st.booleans()):
        node.input[data.draw(st.integers(0, len(node.input) - 1))] = data.draw(st.sampled_from(names))
    tensor = data.draw(st.sampled_from(list(model.graph.initializer)))
    if tensor.dims and data.draw(st.booleans()):
        tensor.dims[0] = data.draw(st.integers(-2, 1 << 40))
    with contextlib.suppress(RskError):
        read(model, ReadOptions(dynamic_batch=data.draw(st.booleans())))
