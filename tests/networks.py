"""Small networks of every family that must read, fold, pack and verify: NETWORKS maps a name to its builder and input shape."""

from functools import cache

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import prune

import rsk_deploy as rsk
from rsk_deploy import zoo
from rsk_deploy.zoo.blocks import Block


def trained(model, shape, seed=0):
    """The model with weights and batch norm statistics as training leaves them: none is zero, one, or equal to another."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d | nn.GroupNorm | nn.LayerNorm) and module.weight is not None:
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.normal_(0, 0.2, generator=generator)
            if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
                module.momentum = None
        if any(isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d) for module in model.modules()):
            model.train()
            model(torch.randn(8, *shape[1:], generator=generator) + 0.3)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
                module.running_var.clamp_(min=0.05)  # a channel that was dead on these inputs
    return model.eval()


def from_zoo(name, shape, **args):
    """A builder of a zoo network."""

    def build():
        torch.manual_seed(0)
        return trained(zoo.build(name, **args), shape)

    return build, shape


def of(network, shape, **args):
    """A builder of one of the networks below."""

    def build():
        torch.manual_seed(0)
        return trained(network(**args), shape)

    return build, shape


class Conv1dNet(Block):
    """Strided, dilated, grouped and transposed 1-D convolutions with batch norm."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv1d(4, 16, 7, stride=2, padding=3, bias=False), nn.BatchNorm1d(16)
        self.conv2 = nn.Conv1d(16, 16, 3, padding=2, dilation=2, groups=4)
        self.pool = nn.MaxPool1d(2)
        self.up = nn.ConvTranspose1d(16, 8, 4, stride=2, padding=1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.up(self.pool(functional.relu(self.conv2(x))))
        return self.fc(x.mean(2))


class OddConvs(Block):
    """Asymmetric pads, dilation, groups, uneven kernels and strides, same and reflecting pads, uneven pooling."""

    def __init__(self):
        super().__init__()
        self.pad = nn.ZeroPad2d((0, 1, 2, 0))
        self.conv1 = nn.Conv2d(3, 12, 3, stride=2)
        self.conv2 = nn.Conv2d(12, 12, (3, 5), padding=(2, 4), dilation=2, groups=3)
        self.conv3 = nn.Conv2d(12, 16, (1, 5), padding="same")
        self.conv4 = nn.Conv2d(16, 16, 3, padding=1, padding_mode="reflect")
        self.pools = nn.ModuleList([nn.MaxPool2d(3, 2, 1, ceil_mode=True), nn.AvgPool2d((3, 2), 2, (1, 0), count_include_pad=False, ceil_mode=True)])
        self.up = nn.ConvTranspose2d(16, 6, (3, 4), stride=2, padding=1, output_padding=(1, 0), groups=2)

    def forward(self, x):
        x = functional.leaky_relu(self.conv1(self.pad(x)), 0.1)
        x = functional.elu(self.conv2(x))
        x = functional.relu6(self.conv4(self.conv3(x)))
        return self.up(torch.cat([pool(x) for pool in self.pools], 1)[:, ::2])


class Norms(Block):
    """PReLU with one and with many slopes, group norm, local response norm, layer norm, and their kind."""

    def __init__(self):
        super().__init__()
        self.conv1, self.norm1, self.act1 = nn.Conv2d(3, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.PReLU(16)
        self.lrn, self.act2 = nn.LocalResponseNorm(5, alpha=0.01, k=2.0), nn.PReLU()
        self.conv2, self.norm2 = nn.Conv2d(16, 8, 3, stride=2, padding=1), nn.InstanceNorm2d(8, affine=True)
        self.norm3, self.fc1, self.fc2 = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(24, 8)

    def forward(self, x):
        x = self.act2(self.lrn(self.act1(self.norm1(self.conv1(x)))))
        x = functional.mish(self.norm2(self.conv2(x)))
        tokens = self.norm3(x.flatten(2).transpose(1, 2))
        tokens = tokens + self.fc2(functional.gelu(self.fc1(tokens)))
        return functional.softplus(tokens.amax(1))


class Shapes(Block):
    """Softmax, concatenation, splits, slices, broadcasting arithmetic, reshapes, reductions, clips and a matrix product of values."""

    def __init__(self):
        super().__init__()
        self.conv, self.query = nn.Conv2d(3, 24, 3, padding=1), nn.Linear(8, 8)
        self.register_buffer("scale", torch.linspace(0.5, 2.0, 8).view(1, 8, 1, 1))

    def forward(self, x):
        a, b, c = self.conv(x).split([8, 8, 8], 1)
        gated = torch.sigmoid(a) * b / (1 + c.abs()) - self.scale
        joined = torch.cat([gated[:, :, ::2, 1:], gated[:, :, 1::2, :-1].clamp(-1, 1)], 2)
        pooled = functional.adaptive_avg_pool2d(joined, (2, 3)).flatten(2).permute(0, 2, 1)
        attention = torch.softmax(self.query(pooled) @ pooled.transpose(1, 2) / 8**0.5, -1)
        mixed = (attention @ pooled).reshape(x.shape[0], 6, 1, 2, 4).squeeze(2)
        return torch.log_softmax(mixed.sum(2).flatten(1), 1), torch.tanh(mixed.mean((1, 3))), mixed.pow(2).amax(1).sqrt().exp().unsqueeze(1)


class Shared(Block):
    """One convolution used twice."""

    def __init__(self):
        super().__init__()
        self.stem, self.conv, self.bn = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)

    def forward(self, x):
        x = self.stem(x)
        return functional.relu(self.bn(self.conv(x))) + functional.relu(self.conv(x))


def pruned(shape):
    """A ResNet with torch's own pruning left in place."""

    def build():
        model = from_zoo("resnet18", shape, width=0.125)[0]()
        for name, module in model.named_modules():
            if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
                (prune.l1_unstructured if name.startswith("layer1") else prune.random_unstructured)(module, "weight", amount=0.7)
        return model

    return build, shape


SMALL, LARGE = (1, 3, 16, 16), (1, 3, 64, 64)

DENSE = {
    "cnn6": from_zoo("cnn6", SMALL, pooled=2, width=0.125),
    "alexnet": from_zoo("alexnet", LARGE, width=0.0625, classes=10),
    "vgg16": from_zoo("vgg16", (1, 3, 32, 32), width=0.125, hidden=[64]),
    "resnet18": from_zoo("resnet18", SMALL, width=0.125),
    "resnet50": from_zoo("resnet50", LARGE, width=0.125, stem="imagenet"),
    "wide-resnet40": from_zoo("wide-resnet40", SMALL, width=0.5),
    "densenet": from_zoo("densenet201", SMALL, width=0.25, blocks=[2, 3, 2]),
    "googlenet": from_zoo("googlenet", SMALL, width=0.125),
    "inceptionv3": from_zoo("inceptionv3", (1, 3, 20, 20), width=0.0625),
    "mobilenetv2": from_zoo("mobilenetv2", SMALL, width=0.25),
    "mobilenetv3": from_zoo("mobilenetv3", LARGE, width=0.25, classes=10),
    "efficientnet": from_zoo("efficientnet-b0", LARGE, width=0.25, classes=10),
    "shufflenet": from_zoo("shufflenet", SMALL, width=0.125),
    "shufflenetv2": from_zoo("shufflenetv2", LARGE, width=0.25, classes=10),
    "regnet": from_zoo("regnet", LARGE, width=0.1, classes=10),
    "convnext": from_zoo("convnext-tiny", (1, 3, 32, 32), width=0.0625, blocks=[1, 1, 2, 1], classes=10),
    "unet-transposed": from_zoo("unet", SMALL, width=0.0625),
    "unet-nearest": from_zoo("unet", SMALL, width=0.0625, up="nearest"),
    "unet-bilinear": from_zoo("unet", SMALL, width=0.0625, up="bilinear"),
    "conv1d": of(Conv1dNet, (1, 4, 40)),
    "odd-convs": of(OddConvs, (1, 3, 17, 22)),
    "norms": of(Norms, (1, 3, 12, 10)),
    "shapes": of(Shapes, (1, 3, 8, 12)),
    "shared": of(Shared, SMALL),
}
"""Networks without structure in their weights."""

SPARSE = {
    "psconv-regular": from_zoo("resnet18", SMALL, width=0.125, conv="psconv"),
    "psconv-periodic": from_zoo("vgg16", (1, 3, 32, 32), width=0.25, conv="psconv", conv_args={"support": "periodic", "period": 8}),
    "psconv-lfsr": from_zoo("cnn6", SMALL, pooled=2, width=0.25, conv="psconv", conv_args={"support": "lfsr", "seed": 5}),
    "psconv-block-shared": from_zoo("cnn6", SMALL, pooled=2, width=0.25, conv="psconv", conv_args={"support": "block-shared", "block": 4}),
    "psconv-per-input": from_zoo("cnn6", SMALL, pooled=2, width=0.25, conv="psconv", conv_args={"support": "per-input"}),
    "psconv-two-four": from_zoo("cnn6", SMALL, pooled=2, width=0.25, conv="psconv", conv_args={"support": "two-four", "where": "features.[48]"}),
    "skeleton": from_zoo("resnet18", SMALL, width=0.125, conv="skeleton"),
    "rsk": from_zoo("cnn6", SMALL, pooled=2, width=0.125, conv="rsk", conv_args={"p": 0.6}),
    "rsk-residual": from_zoo("resnet18", SMALL, width=0.125, conv="rsk", conv_args={"p": 0.6, "where": "layer[34].*.conv2"}),
    "pruned": pruned(SMALL),
}
"""Networks trained sparse, or pruned."""

NETWORKS = DENSE | SPARSE
"""Name to (builder, input shape). A builder gives a fresh network in evaluation mode, always the same."""


@cache
def packed(name):
    """The network read with an open batch and packed. Reading takes seconds: the tests of one run share it."""
    build, shape = NETWORKS[name]
    return rsk.pack(rsk.read(build(), input_shape=shape, dynamic_batch=True))
