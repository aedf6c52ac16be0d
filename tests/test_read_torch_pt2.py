"""Exported programs: read as torch runs them, and never a way to run code."""

import sys

import numpy as np
import pytest
import torch
from hostile import torch_pt2 as hostile
from torch import nn

from rsk_deploy import reference
from rsk_deploy.errors import CorruptFileError, RskError, UnsafeFileError, UnsupportedError
from rsk_deploy.readers import ReadOptions, read


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.register_buffer("p_conv_weight", torch.full((1, 3, 1, 1), 2.0))  # as torch.export itself calls conv.weight

    def forward(self, x):
        return {"features": torch.relu(self.norm(self.conv(x))) * self.p_conv_weight}


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    torch.manual_seed(0)
    model = Net().eval()
    program = torch.export.export(model, (torch.randn(2, 2, 5, 5),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    path = tmp_path_factory.mktemp("pt2") / "good.pt2"
    torch.export.save(program, path)
    return model, program, path


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_program_is_read_as_torch_runs_it(good, in_memory):
    model, program, path = good
    source = read(program if in_memory else path, ReadOptions(dynamic_batch=True))
    x = np.random.default_rng(0).standard_normal((3, 2, 5, 5)).astype(np.float32)
    expected = model.double()(torch.from_numpy(x).double())["features"].detach().numpy()
    model.float()
    assert source.graph.outputs == ("features",)
    np.testing.assert_allclose(source.run({"x": x})["features"], expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(reference.run(source.graph, {"x": x})["features"], expected, rtol=1e-5, atol=1e-5)
    assert "conv" in [layer.name for layer in source.graph.weighted()]


@pytest.mark.parametrize("name", hostile.UNSAFE)
def test_a_program_with_code_in_it_is_refused_and_not_run(good, name, tmp_path, monkeypatch):
    marker = tmp_path / "marker"
    monkeypatch.syspath_prepend(tmp_path)
    path = hostile.write(tmp_path / "bad.pt2", hostile.UNSAFE[name](hostile.entries(good[2]), marker))
    with pytest.raises(UnsafeFileError, match=r"could run code.*--allow-pickle"):
        read(path, ReadOptions())
    assert not marker.exists()
    assert "rsk_marker_module" not in sys.modules


@pytest.mark.parametrize("name", hostile.LEFT_OUT)
def test_code_beside_the_program_is_left_out(good, name, tmp_path):
    marker = tmp_path / "marker"
    path = hostile.write(tmp_path / "odd.pt2", hostile.LEFT_OUT[name](hostile.entries(good[2]), marker))
    x = np.ones((1, 2, 5, 5), np.float32)
    result = read(path, ReadOptions()).run({"x": x})["features"]
    assert not marker.exists()
    np.testing.assert_allclose(result, good[0](torch.from_numpy(x))["features"].detach().numpy(), rtol=1e-5, atol=1e-5)


def test_the_hostile_programs_do_run_code_in_torch_itself(good, tmp_path):
    marker = tmp_path / "marker"
    path = hostile.write(tmp_path / "bad.pt2", hostile.UNSAFE["expression"](hostile.entries(good[2]), marker))
    with pytest.raises(RskError):
        read(path, ReadOptions(allow_pickle=True))
    assert marker.exists()


@pytest.mark.parametrize("name", hostile.CORRUPT)
def test_a_corrupt_program_is_refused(good, name, tmp_path):
    path = hostile.write(tmp_path / "bad.pt2", hostile.CORRUPT[name](hostile.entries(good[2])))
    with pytest.raises((CorruptFileError, UnsupportedError), match=r"bad.pt2: "):
        read(path, ReadOptions())


@pytest.mark.parametrize("keep", [1, 3, 30, 0.5, 0.99])
def test_a_truncated_program_is_refused(good, keep, tmp_path):
    data = good[2].read_bytes()
    (tmp_path / "bad.pt2").write_bytes(data[: keep if keep > 1 or keep == 1 else int(len(data) * keep)])
    with pytest.raises(CorruptFileError, match=r"bad.pt2: .*\d+ bytes"):
        read(tmp_path / "bad.pt2", ReadOptions())


def test_an_integer_that_multiplies_without_end_is_not_computed(good, tmp_path):
    for count, refused in ((4, False), (5, True)):
        path = hostile.write(tmp_path / "bad.pt2", hostile.with_products(hostile.entries(good[2]), count))
        if refused:
            with pytest.raises(CorruptFileError, match=r"_operator.mul computes an integer of up to 1952 bits; sizes have 1024 bits at most on the way"):
                read(path, ReadOptions())
        else:
            assert read(path, ReadOptions()).graph.outputs == ("features",)


def test_a_program_in_bfloat16_is_unsupported(tmp_path):
    model = nn.Conv2d(2, 3, 3).eval().to(torch.bfloat16)
    torch.export.save(torch.export.export(model, (torch.zeros(1, 2, 5, 5, dtype=torch.bfloat16),)), tmp_path / "brief.pt2")
    with pytest.raises(UnsupportedError, match=r"brief.pt2: weight is bfloat16, .* Export the program again from model.float\(\)"):
        read(tmp_path / "brief.pt2", ReadOptions())
