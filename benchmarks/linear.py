"""Linear layers over batches of rows against onnxruntime: ``taskset -c 1 python benchmarks/linear.py [SIDE]``."""

import sys

import torch
from turns import in_turns, peer

import rsk_deploy as rsk

SIDE = int(sys.argv[1]) if len(sys.argv) > 1 else 4096
BATCHES, ROUNDS = (1, 2, 4, 8, 16), 10


def layer(density: float) -> torch.nn.Module:
    """A square layer with that share of nonzeros."""
    torch.manual_seed(0)
    linear = torch.nn.Linear(SIDE, SIDE)
    with torch.no_grad():
        linear.weight *= torch.rand_like(linear.weight) < density
    return linear.eval()


print(f"{'nonzero':>8} {'batch':>5} {'onnxruntime':>12} {'rsk':>9}   {SIDE} × {SIDE}, ms")
for density in (1.0, 4 / 9, 0.1):
    model = layer(density)
    for batch in BATCHES:
        x = torch.randn(batch, SIDE).numpy()
        with rsk.Session(rsk.pack(rsk.read(model, input_shape=x.shape)), threads=1) as session:
            dense, ours = in_turns([peer(model, x), lambda session=session, x=x: session(x)], ROUNDS)
            print(f"{density:8.0%} {batch:5} {dense:12.2f} {ours:9.2f}   {session.profile(x)[0].kernel}", flush=True)
