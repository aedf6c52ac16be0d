"""Layers to train sparse convolutional networks with, and checkpoints that describe themselves. Needs torch."""

from rsk_deploy.errors import needing

with needing("torch", "torch", "rsk_deploy.nn"):
    import torch as _torch  # noqa: F401  # asked for here once, so that its absence is told as ours

from rsk_deploy.nn.checkpoint import Checkpoint, load_checkpoint, load_state, save_checkpoint
from rsk_deploy.nn.psconv import CoverageWarning, PSConv2d, SkeletonConv2d
from rsk_deploy.nn.rsk import PSchedule, RSKConv2d
from rsk_deploy.nn.sparsify import sparsify

__all__ = [
    "Checkpoint",
    "CoverageWarning",
    "PSConv2d",
    "PSchedule",
    "RSKConv2d",
    "SkeletonConv2d",
    "load_checkpoint",
    "load_state",
    "save_checkpoint",
    "sparsify",
]
