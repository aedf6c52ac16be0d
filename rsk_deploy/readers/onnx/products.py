"""Matrix products: with a constant on the right they are linear layers."""

from __future__ import annotations

import numpy as np

from rsk_deploy.ir import Binary, Dense, FloatArray, Linear, MatMul, Transpose
from rsk_deploy.readers.onnx.build import Node, NotModelled

SWAP = (1, 0)


def row_bias(addend: FloatArray, outputs: int) -> FloatArray | None:
    """``addend`` as one value per output, if every row gets the same."""
    if addend.ndim > 2 or (addend.ndim == 2 and addend.shape[0] != 1) or addend.shape[-1:] not in ((), (1,), (outputs,)):
        return None
    return np.broadcast_to(addend.reshape(-1), (outputs,)).copy()


def gemm(node: Node) -> None:
    """``alpha · A · B + beta · C`` with a constant B is a linear layer, alpha and beta multiplied in."""
    if node.constant(1) is None or node.constant(0) is not None:
        return computed_gemm(node)
    node.named_after(1)
    weight = node.floats(1)
    weight = np.float32(node.attribute("alpha", 1.0)) * (weight if node.attribute("transB", 0) else weight.T) + np.float32(0)
    x = node.read()
    if node.attribute("transA", 0):
        x = node.step("transpose", Transpose, x, perm=SWAP)
    if not node.has(2):
        return node.emit(Linear, x, weight=Dense(weight))
    beta = np.float32(node.attribute("beta", 1.0))
    if node.constant(2) is not None:
        addend = beta * node.floats(2) + np.float32(0)
        if (bias := row_bias(addend, weight.shape[0])) is not None:
            return node.emit(Linear, x, weight=Dense(weight), bias=bias)
        other = node.fixed("addend", addend)
    elif beta == 1:
        other = node.read(2)
    else:
        raise NotModelled
    return node.emit(Binary, node.step("product", Linear, x, weight=Dense(weight)), other, kind="add")


def computed_gemm(node: Node) -> None:
    """The same of two computed matrices."""
    if node.attribute("alpha", 1.0) != 1 or node.attribute("beta", 1.0) != 1:
        raise NotModelled
    a, b = (
        node.step(f"transpose-{name}", Transpose, node.read(index), perm=SWAP) if node.attribute(f"trans{name}", 0) else node.read(index)
        for index, name in enumerate("AB")
    )
    if not node.has(2):
        return node.emit(MatMul, a, b)
    return node.emit(Binary, node.step("product", MatMul, a, b), node.read(2), kind="add")


def matmul(node: Node) -> None:
    """A product with a constant matrix on the right is a linear layer; in a file of ours, if a weight was transposed for it."""
    if len(node.shape(0)) < 2 or len(node.shape(1)) < 2:
        raise NotModelled
    ours = not node.builder.exact or node.proto.input[1].endswith("/transpose")
    if ours and node.constant(1) is not None and len(node.shape(1)) == 2:
        node.named_after(1)
        return node.emit(Linear, node.read(), weight=Dense(node.floats(1).T))
    return node.emit(MatMul, node.read(0), node.read(1))
