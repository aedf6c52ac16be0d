"""ExecuTorch with XNNPACK."""

import torch
from executorch.extension.pybindings import portable_lib
from executorch.version import __version__

torch.set_num_threads(1)


def version():
    """What is measured."""
    return f"ExecuTorch {__version__}"


def load(stem, x):
    """On one thread."""
    path = stem.with_suffix(".pte")
    if not path.exists():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        program = torch.export.load(stem.with_suffix(".pt2"))
        path.write_bytes(to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch().buffer)
    program = portable_lib._load_for_executorch(str(path))
    portable_lib._unsafe_reset_threadpool(1)
    tensor = torch.from_numpy(x)
    return lambda: program.forward([tensor])[0].numpy()
