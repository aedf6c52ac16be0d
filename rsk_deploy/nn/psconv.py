"""Pre-defined sparse kernels: a mask fixed before training, and held."""

from __future__ import annotations

import json
import warnings
from typing import Any

import torch
from torch import nn

from rsk_deploy.errors import CorruptFileError, UsageError
from rsk_deploy.ir import Declared
from rsk_deploy.registry import MASKS, check_arguments, known, mask_named, regenerate

MOST_BYTES = 1 << 20  # of the declaration of a mask in a state dict


class CoverageWarning(UserWarning):
    """The kernels of a filter keep too few weights to reach every position of the window."""


class PSConv2d(nn.Conv2d):  # type: ignore[misc]  # torch is not type-checked here
    """A convolution whose weight is zero outside a fixed mask.

    ``support`` is a mask family of ``rsk_deploy.registry.MASKS``; ``taps_per_kernel`` (the kernel support size), ``seed`` and
    further ``params`` are the family's own. ``mask`` (bool, the weight's shape) is a buffer; ``declared`` says how the mask came
    about, and travels in the state dict too. Weights start, and stay, zero outside the mask; they are initialised for the
    fan-in that is kept.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: str | int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
        *,
        support: str = "regular",
        **params: Any,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype)
        if not {"taps", "density"} & params.keys():
            params = {"taps_per_kernel": 4, "seed": 1} | params
        check_arguments(f"{type(self).__name__} with support={support!r}", mask_named(support).generate, params, positional=1, also=("support",))
        self.declared = Declared(support, params)
        self.register_buffer("mask", self._generated())
        self.fit_to_mask_()

    def _generated(self) -> torch.Tensor:
        """The declared mask; on the meta device, where nothing has values, only its shape."""
        if self.weight.is_meta:
            return torch.empty_like(self.weight, dtype=torch.bool)
        mask = regenerate(self.declared, tuple(self.weight.shape))
        kernels, positions, taps = self.weight.shape[1], self.weight[0, 0].numel(), self.declared.params.get("taps_per_kernel", self.weight.numel())
        if taps * kernels < positions:
            warnings.warn(
                f"the {kernels} × {taps} taps of a filter reach at most {taps * kernels} of the {positions} positions of the window; "
                f"{-(-positions // kernels)} taps per kernel can reach all",
                CoverageWarning,
                stacklevel=3,
            )
        reached = int(mask.support.any(axis=1).reshape(len(mask.support), -1).sum(axis=1).min())
        if mask.family in ("input-class", "lowerable") and reached < min(positions, taps * kernels):
            warnings.warn(
                f"the rectangles of a filter, one for each of {kernels} channels, reach {reached} of the {positions} positions of the window; "
                "more input channels, more taps per kernel, or another kind of mask can reach all",
                CoverageWarning,
                stacklevel=3,
            )
        return torch.tensor(mask.support, device=self.weight.device)

    @torch.no_grad()  # type: ignore[untyped-decorator]  # torch is not type-checked here
    def fit_to_mask_(self) -> None:
        """Zero the weight outside the mask and scale the rest, per filter, so that the variance of the outputs stays."""
        density = self.mask.float().mean(dim=(1, 2, 3), keepdim=True)
        self.weight.mul_(self.mask / density.sqrt().clamp(min=1e-6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve with the masked weight."""
        return self._conv_forward(x, self.weight * self.mask, self.bias)

    def get_extra_state(self) -> torch.Tensor:
        """``declared`` as JSON bytes in a tensor, which every kind of state dict file takes."""
        text = json.dumps({"family": self.declared.family, "params": dict(self.declared.params)}, sort_keys=True)
        return torch.tensor(list(text.encode()), dtype=torch.uint8)

    def set_extra_state(self, state: torch.Tensor) -> None:
        """Take over the ``declared`` of a state dict; its ``mask`` arrives as a buffer."""
        try:
            if state.numel() > MOST_BYTES:
                raise ValueError(f"{state.numel()} bytes are more than {MOST_BYTES}")
            content = json.loads(bytes(state.tolist()))
            self.declared = Declared(known(MASKS, content["family"], "mask family"), {**content["params"]})
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise CorruptFileError(f"the state dict does not say which mask a pSConv layer has: {error}") from error

    def extra_repr(self) -> str:
        """What ``print`` shows of the layer."""
        params = "".join(f", {name}={value}" for name, value in self.declared.params.items())
        return f"{super().extra_repr()}, support={self.declared.family}{params}"


class SkeletonConv2d(PSConv2d):
    """A convolution that keeps the cross of each kernel: the middle row and the middle column, 5 of 9 in a 3x3 kernel."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int | tuple[int, int], *conv: Any, **conv_args: Any) -> None:
        rows, columns = kernel_size if isinstance(kernel_size, tuple) else (kernel_size, kernel_size)
        if not rows % 2 == columns % 2 == 1:
            raise UsageError(f"a kernel of {rows}x{columns} has no middle row and column; a skeleton takes odd sizes")
        cross = [row * columns + column for row in range(rows) for column in range(columns) if row == rows // 2 or column == columns // 2]
        super().__init__(in_channels, out_channels, kernel_size, *conv, **conv_args, support="one-pattern", taps=cross)
