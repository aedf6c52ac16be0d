"""Random sparse kernels: every training step convolves with another random subset of the weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from rsk_deploy.errors import UsageError


def probability(p: Any) -> float:
    """``p`` if it can be the probability of keeping a weight."""
    try:
        value = float(p)
    except (TypeError, ValueError, RuntimeError):  # RuntimeError: a tensor of several numbers, in some releases of torch
        value = 0.0
    if not 0 < value <= 1:
        raise UsageError(f"p is {p}; the probability of keeping a weight is above 0 and at most 1 (1 keeps every weight)")
    return value


class RSKConv2d(nn.Conv2d):  # type: ignore[misc]  # torch is not type-checked here
    """A convolution that keeps each weight with probability ``p`` in every training forward, and computes with ``weight * p`` in evaluation.

    Gradients flow through the kept weights only. ``p`` is a float to read and to set; the state dict carries it as
    ``keep_probability``. The masks come from ``generator`` if given, else from torch's own, so that a seed repeats them.
    """

    def __init__(self, *conv: Any, p: float = 0.5, generator: torch.Generator | None = None, **conv_args: Any) -> None:
        super().__init__(*conv, **conv_args)
        self.generator = generator
        self.register_buffer("keep_probability", torch.tensor(probability(p), dtype=torch.float32, device=self.weight.device))

    @property
    def p(self) -> float:
        """The probability of keeping a weight."""
        return float(self.keep_probability)

    @p.setter
    def p(self, p: float) -> None:
        self.keep_probability.fill_(probability(p))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve with a random part of the weight (training) or with its mean (evaluation)."""
        if self.training:
            draw = torch.rand(self.weight.shape, generator=self.generator, device=self.weight.device)
            weight = self.weight * (draw < self.keep_probability)
        else:
            weight = self.weight * self.keep_probability
        return self._conv_forward(x, weight, self.bias)

    def extra_repr(self) -> str:
        """What ``print`` shows of the layer."""
        return f"{super().extra_repr()}, p={self.p:g}"


class PSchedule:
    """Lowers ``p`` of every RSKConv2d of a model evenly from 1 to ``target``, which ``epochs`` calls of ``step`` reach.

    Call ``step`` once after each epoch; choose ``epochs`` so that the target is reached just before overfitting starts.
    """

    def __init__(self, model: nn.Module, target: float, epochs: int) -> None:
        self.layers = [layer for layer in model.modules() if isinstance(layer, RSKConv2d)]
        if not self.layers:
            raise UsageError(f"the {type(model).__name__} has no RSKConv2d whose p could be lowered; put one in with rsk_deploy.nn.sparsify(model, 'rsk')")
        if epochs < 1:
            raise UsageError(f"a PSchedule over {epochs} epochs; it takes at least 1")
        self.target, self.epochs, self.epoch = probability(target), epochs, 0
        self._apply()

    @property
    def p(self) -> float:
        """The probability of keeping a weight in the present epoch."""
        return self.target if self.epoch >= self.epochs else 1 - (1 - self.target) * self.epoch / self.epochs

    def _apply(self) -> None:
        for layer in self.layers:
            layer.p = self.p

    def step(self) -> None:
        """An epoch is over: lower p."""
        self.epoch += 1
        self._apply()

    def state_dict(self) -> dict[str, float]:
        """What ``load_state_dict`` takes to go on from here."""
        return {"target": self.target, "epochs": self.epochs, "epoch": self.epoch}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go on where another schedule was."""
        self.target, self.epochs, self.epoch = probability(state["target"]), int(state["epochs"]), int(state["epoch"])
        self._apply()
