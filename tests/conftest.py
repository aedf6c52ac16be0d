import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the suite runs one process a core
os.environ["PYTHONSAFEPATH"] = "1"  # what tests start imports the installed package, as pytest does, not the folder it is started in

import pytest
import torch

import rsk_deploy as rsk
from rsk_deploy import zoo
from rsk_deploy.nn import save_checkpoint

torch.set_num_threads(1)

SHAPE = (1, 3, 16, 16)


def network(**args):
    """A tiny 6-layer CNN with batch norms that have seen data."""
    torch.manual_seed(1)
    model = zoo.build("cnn6", width=0.125, **args)
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(8, *SHAPE[1:]) + 0.5)
    return model.eval()


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """Self-describing checkpoints by name: a dense net, a 4-of-9 net and an RSK net."""
    folder = tmp_path_factory.mktemp("checkpoints")
    kinds = {
        "dense": {},
        "psconv": {"conv": "psconv", "conv_args": {"taps_per_kernel": 4}},
        "rsk": {"conv": "rsk", "conv_args": {"p": 0.5}},
    }
    for name, args in kinds.items():
        save_checkpoint(network(**args), folder / f"{name}.pt", input_shape=SHAPE, labels=[str(digit) for digit in range(10)])
    return {name: folder / f"{name}.pt" for name in kinds}


@pytest.fixture(scope="session")
def onnx_model(checkpoints, tmp_path_factory):
    """The 4-of-9 net as an ONNX file, which is read without torch."""
    path = tmp_path_factory.mktemp("onnx") / "net.onnx"
    rsk.export(checkpoints["psconv"], path, verify=False)
    return path
