"""Random networks of the layers that the native runtime places, fuses and runs in its own ways."""

import numpy as np

from rsk_deploy.ir import Activation, Affine, AveragePool, Binary, Concat, Conv, ConvTranspose, Graph, Input, Mask, MaxPool, Reshape, Slice, Softmax, Transpose
from rsk_deploy.registry import format_named
from rsk_deploy.runtime.fuse import CONV_ACTIVATIONS

WIDEST = 9000
"""Elements of the largest value, unless the input has more."""


class Grown:
    """A network under construction: every value has a shape (channels, height, width)."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        sides = (1, 4, 7, 8, 13, 16)
        self.shapes, self.layers = {"x": (self.pick(3, 5, 8, 16, 20, 33), self.pick(*sides), self.pick(*sides, 17, 33))}, []
        self.latest = self.pick(0.5, 0.95)

    def pick(self, *options):
        return options[int(self.rng.integers(len(options)))]

    def value(self):
        """A value; the latest are the likeliest: in a chain, what nobody reads again is overwritten."""
        names = list(self.shapes)
        return names[-1 - min(int(self.rng.geometric(self.latest)) - 1, len(names) - 1)]

    def add(self, kind, inputs, /, **fields):
        """The layer's output, unless it would be too large."""
        name = f"v{len(self.layers)}"
        layer = kind(name=f"l{len(self.layers)}", inputs=tuple(inputs), outputs=(name,), **fields)
        shapes = Graph((Input("x", ("batch", *self.shapes["x"])),), (name,), (*self.layers, layer)).shapes(1)
        if np.prod(shapes[name]) > max(WIDEST, np.prod(self.shapes["x"])):
            return inputs[0]
        self.layers.append(layer)
        self.shapes[name] = tuple(shapes[name][1:])
        return name

    def weight(self, *shape):
        """Random weights, often with zeros, sometimes in one place in all filters."""
        rng = self.rng
        kept = rng.random(self.pick(shape, shape, (1, *shape[1:]))) < self.pick(1.0, 0.5, 0.2)
        values = rng.standard_normal(shape).astype(np.float32) * kept / np.float32(np.sqrt(np.prod(shape[1:])))
        return format_named("csr").encode(values, Mask("unstructured", values != 0))

    def bias(self, count):
        return self.pick(None, self.rng.standard_normal(count).astype(np.float32))

    def conv(self, x, filters=None, same=False):
        channels, *space = self.shapes[x]
        groups = self.pick(1, 1, 1, channels, 2 if channels % 2 == 0 else 1) if filters is None else 1
        filters = filters or groups * self.pick(*(count for count in (1, 3, 8, 20, 33) if count * groups <= 40), 1)
        size = self.pick((3, 3), (3, 3), (1, 1), (1, 3), (5, 1))
        stride = (1, 1) if same else self.pick((1, 1), (1, 1), (2, 2), (1, 2))
        dilation = self.pick((1, 1), (1, 1), (2, 1))
        reach = [dilation[axis] * (size[axis] - 1) for axis in range(2)]
        begins = [gap // 2 if same else int(self.rng.integers(gap + 1)) for gap in reach]
        ends = [
            gap - gap // 2 if same else max(int(self.rng.integers(gap + 1)), gap + 1 - side - begin)
            for gap, begin, side in zip(reach, begins, space, strict=True)
        ]
        weight = self.weight(filters, channels // groups, *size)
        return self.add(Conv, [x], weight=weight, bias=self.bias(filters), stride=stride, pads=(*begins, *ends), dilation=dilation, groups=groups)

    def residual(self, x):
        y = self.conv(self.pick(x, self.conv(x, self.shapes[x][0], same=True)), self.shapes[x][0], same=True)
        y = self.sum(*self.pick((x, y), (y, x))) if self.shapes[y] == self.shapes[x] else y
        return self.activation(y)

    def sum(self, a, b):
        return self.add(Binary, [a, b], kind="add")

    def activation(self, x):
        return self.add(Activation, [x], kind=self.pick(*CONV_ACTIVATIONS, "tanh"), alpha=0.1, beta=0.7)

    def alike(self, x):
        """Add, multiply or join a value of the same size."""
        like = [name for name, shape in self.shapes.items() if shape[1:] == self.shapes[x][1:]]
        other = self.pick(*like)
        if self.shapes[other] == self.shapes[x] and self.rng.random() < 0.5:
            return self.add(Binary, [x, other], kind=self.pick("add", "mul", "sub"))
        return self.add(Concat, self.pick([x, other], [other, x], [x, other, self.conv(x, 4, same=True)]), axis=1)

    def joined(self, x):
        """Two convolutions of one value, joined."""
        return self.add(Concat, [self.residual(x), self.conv(x, self.pick(3, 16), same=True), self.activation(x)][: self.pick(2, 3)], axis=1)

    def up(self, x):
        channels, filters, stride = self.shapes[x][0], self.pick(1, 4, 9), self.pick((2, 2), (1, 2), (3, 1))
        weight = self.weight(channels, filters, *self.pick((2, 2), (3, 3), (4, 4)))
        return self.add(ConvTranspose, [x], weight=weight, bias=self.bias(filters), stride=stride, pads=(0, 0, 1, 1), dilation=(1, 1), output_pads=(0, 0))

    def pool(self, x):
        kind = self.pick(MaxPool, AveragePool)
        return self.add(kind, [x], kernel=(3, 3), stride=self.pick((1, 1), (2, 2)), pads=(1, 1, 1, 1), dilation=(1, 1))

    def part(self, x):
        axis = self.pick(1, 1, 2, 3)
        size = self.shapes[x][axis - 1]
        start = int(self.rng.integers(size))
        return self.add(Slice, [x], axis=axis, start=start, stop=int(self.rng.integers(start, size)) + 1, step=self.pick(1, 1, 2))

    def shape(self, x):
        channels, high, wide = self.shapes[x]
        target = self.pick((high, channels, wide), (channels, wide, high), (channels * high, 1, wide), (channels, high, wide))
        return self.add(Reshape, [x], target=(-1, *target))

    def turn(self, x):
        return self.add(Transpose, [x], perm=self.pick((0, 1, 3, 2), (0, 2, 1, 3)))

    def affine(self, x):
        scale, shift = self.rng.standard_normal((2, self.shapes[x][0])).astype(np.float32)
        return self.add(Affine, [x], scale=scale, shift=shift)

    def softmax(self, x):
        return self.add(Softmax, [x], axis=1)


def grown(seed):
    """A network; some inner values are outputs as well."""
    net = Grown(seed)
    steps = (
        *[net.conv, net.residual] * net.pick(1, 6),
        net.alike,
        net.joined,
        net.up,
        net.pool,
        net.part,
        net.shape,
        net.turn,
        net.affine,
        net.softmax,
        net.activation,
    )
    for _ in range(int(net.rng.integers(3, 12))):
        net.pick(*steps)(net.value())
    if not net.layers:
        net.activation("x")
    last, *inner = list(net.shapes)[:0:-1]
    share = net.pick(0.0, 0.0, 0.3, 1.0)
    shown = [name for name in inner if net.rng.random() < share]
    return Graph((Input("x", ("batch", *net.shapes["x"])),), (*shown, last), tuple(net.layers))
