"""The network between the readers and the writers. Knows no file format and no framework: numpy and the standard library only."""

from rsk_deploy.ir.arithmetic import ACTIVATIONS, BINARIES, LRN, REDUCTIONS, Activation, Affine, Binary, GroupNorm, LayerNorm, MatMul, PRelu, Reduce, Softmax
from rsk_deploy.ir.graph import Graph, Input, LogEntry
from rsk_deploy.ir.layers import MAX_ELEMENTS, AveragePool, Constant, Conv, ConvTranspose, Layer, Linear, MaxPool, Opaque, Pool, Weighted
from rsk_deploy.ir.movement import Concat, Gather, Pad, Reshape, Resize, Slice, Transpose
from rsk_deploy.ir.weights import BoolArray, Choice, Declared, Dense, FloatArray, Json, Mask, Packed, Shape, Weight

__all__ = [
    "ACTIVATIONS",
    "BINARIES",
    "LRN",
    "MAX_ELEMENTS",
    "REDUCTIONS",
    "Activation",
    "Affine",
    "AveragePool",
    "Binary",
    "BoolArray",
    "Choice",
    "Concat",
    "Constant",
    "Conv",
    "ConvTranspose",
    "Declared",
    "Dense",
    "FloatArray",
    "Gather",
    "Graph",
    "GroupNorm",
    "Input",
    "Json",
    "Layer",
    "LayerNorm",
    "Linear",
    "LogEntry",
    "Mask",
    "MatMul",
    "MaxPool",
    "Opaque",
    "PRelu",
    "Packed",
    "Pad",
    "Pool",
    "Reduce",
    "Reshape",
    "Resize",
    "Shape",
    "Slice",
    "Softmax",
    "Transpose",
    "Weight",
    "Weighted",
]
