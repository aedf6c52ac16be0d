import copy
import io
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import nn

from rsk_deploy.errors import CorruptFileError, UsageError
from rsk_deploy.ir import Declared
from rsk_deploy.nn import CoverageWarning, PSchedule, PSConv2d, RSKConv2d, SkeletonConv2d
from rsk_deploy.registry import MASKS, regenerate

CONVS = [{}, {"bias": False}, {"stride": 2, "padding": 1}, {"padding": 1, "padding_mode": "reflect"}, {"groups": 2, "dilation": 2, "padding": "same"}]


def dense(layer, weight):
    """The plain convolution with another weight."""
    plain = nn.Conv2d(
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size,
        layer.stride,
        layer.padding,
        layer.dilation,
        layer.groups,
        layer.bias is not None,
        layer.padding_mode,
    )
    plain.load_state_dict({"weight": weight, **({} if layer.bias is None else {"bias": layer.bias})})
    return plain


@pytest.fixture
def x():
    return torch.randn(2, 8, 9, 9, generator=torch.Generator().manual_seed(3))


class TestRandomSparseKernels:
    @pytest.mark.parametrize("conv", CONVS)
    def test_evaluation_uses_every_weight_times_p(self, conv, x):
        layer = RSKConv2d(8, 6, 3, p=0.3, **conv).eval()
        torch.testing.assert_close(layer(x), dense(layer, layer.weight * 0.3)(x), rtol=0, atol=1e-6)

    @pytest.mark.parametrize("conv", CONVS)
    def test_training_keeps_a_fresh_p_of_the_weights(self, conv, x):
        layer = RSKConv2d(8, 64, 3, p=0.3, generator=torch.Generator().manual_seed(1), **conv)
        replay = torch.Generator().manual_seed(1)
        masks = [torch.rand(layer.weight.shape, generator=replay) < 0.3 for _ in range(2)]
        for mask in masks:
            torch.testing.assert_close(layer(x), dense(layer, layer.weight * mask)(x), rtol=0, atol=1e-5)
            assert float(mask.float().mean()) == pytest.approx(0.3, abs=0.03)
        assert not torch.equal(*masks)

    def test_gradients_flow_through_the_kept_weights_only(self, x):
        layer = RSKConv2d(8, 6, 3, p=0.4, bias=False, generator=torch.Generator().manual_seed(5))
        mask = torch.rand(layer.weight.shape, generator=torch.Generator().manual_seed(5)) < 0.4
        layer(x).square().sum().backward()
        assert torch.equal(layer.weight.grad != 0, mask)

    def test_the_mean_over_masks_is_the_evaluation(self, x):
        layer = RSKConv2d(8, 4, 3, p=0.5, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            mean = torch.stack([layer(x) for _ in range(4000)]).mean(0)
            torch.testing.assert_close(mean, layer.eval()(x), rtol=0, atol=0.03)

    def test_the_seed_of_torch_repeats_the_masks(self, x):
        layer = RSKConv2d(8, 4, 3)
        torch.manual_seed(9)
        first = layer(x)
        torch.manual_seed(9)
        assert torch.equal(first, layer(x))

    def test_p_of_1_keeps_everything(self, x):
        layer = RSKConv2d(8, 4, 3, p=1)
        assert torch.equal(layer(x), dense(layer, layer.weight)(x))

    @pytest.mark.parametrize("p", [0, -0.1, 1.0001, float("nan"), float("inf"), "half", None])
    def test_p_outside_0_to_1_is_refused_with_the_value(self, p):
        with pytest.raises(UsageError, match=rf"p is {p}; the probability of keeping a weight is above 0 and at most 1"):
            RSKConv2d(2, 2, 3, p=p)
        layer = RSKConv2d(2, 2, 3)
        with pytest.raises(UsageError, match="probability of keeping"):
            layer.p = p
        assert layer.p == 0.5

    def test_the_state_dict_carries_p(self):
        other = RSKConv2d(2, 2, 3, p=0.9)
        other.load_state_dict(RSKConv2d(2, 2, 3, p=0.25).state_dict())
        assert other.p == 0.25
        assert "p=0.25" in repr(other)

    def test_a_copy_draws_on_from_the_same_place(self, x):
        layer = RSKConv2d(8, 4, 3, generator=torch.Generator().manual_seed(2))
        assert torch.equal(copy.deepcopy(layer)(x), layer(x))


class TestSchedule:
    def test_p_falls_evenly_from_1_to_the_target_and_stays(self):
        model = nn.Sequential(RSKConv2d(2, 2, 3, p=0.1), nn.Sequential(RSKConv2d(2, 2, 3)))
        schedule = PSchedule(model, target=0.6, epochs=4)
        seen = [(model[0].p, model[1][0].p)]
        for _ in range(6):
            schedule.step()
            seen.append((model[0].p, model[1][0].p))
        assert np.array(seen) == pytest.approx(np.array([1, 0.9, 0.8, 0.7, 0.6, 0.6, 0.6])[:, None].repeat(2, 1))

    def test_a_schedule_goes_on_from_its_state(self):
        model = nn.Sequential(RSKConv2d(2, 2, 3))
        schedule = PSchedule(model, target=0.5, epochs=10)
        schedule.step()
        resumed = PSchedule(model, target=0.9, epochs=2)
        resumed.load_state_dict(schedule.state_dict())
        assert model[0].p == pytest.approx(0.95)
        resumed.step()
        assert resumed.p == pytest.approx(0.9)
        assert model[0].p == pytest.approx(0.9)

    def test_what_cannot_be_scheduled_is_refused(self):
        with pytest.raises(UsageError, match=r"the Linear has no RSKConv2d whose p could be lowered.*sparsify"):
            PSchedule(nn.Linear(2, 2), 0.5, 3)
        with pytest.raises(UsageError, match="over 0 epochs"):
            PSchedule(RSKConv2d(2, 2, 3), 0.5, 0)
        with pytest.raises(UsageError, match="p is 0;"):
            PSchedule(RSKConv2d(2, 2, 3), 0, 3)


PARAMS = {
    "one-pattern": {"taps": [0, 1, 4, 5]},
    "unstructured": {"density": 0.4},
    "periodic": {"period": 4},
    "block-shared": {"block": 2},
    "lfsr": {"seed": 7},
}


@pytest.mark.parametrize("family", MASKS)
class TestFixedMasks:
    def layer(self, family, **conv):
        torch.manual_seed(0)
        return PSConv2d(8, 12, 3, **conv, support=family, **PARAMS.get(family, {}))

    def test_the_mask_is_the_declared_one(self, family, x):
        layer = self.layer(family, padding=1)
        assert layer.declared.family == family
        assert layer.mask.dtype == torch.bool
        np.testing.assert_array_equal(layer.mask.numpy(), regenerate(layer.declared, (12, 8, 3, 3)).support)
        assert torch.equal(layer(x), dense(layer, layer.weight * layer.mask)(x))

    def test_weights_stay_zero_outside_the_mask_in_training(self, family, x):
        layer = self.layer(family, padding=1)
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
        for _ in range(3):
            optimizer.zero_grad()
            layer(x).square().mean().backward()
            assert not layer.weight.grad[~layer.mask].any()
            optimizer.step()
        assert not layer.weight[~layer.mask].any()
        assert (layer.weight[layer.mask] != 0).all()

    def test_a_state_dict_restores_mask_and_declaration(self, family, x):
        layer, file = self.layer(family), io.BytesIO()
        torch.save(layer.state_dict(), file)
        file.seek(0)
        by_pickle = torch.load(file, weights_only=True)
        by_safetensors = load_safetensors(save_safetensors(layer.state_dict()))
        for state in (by_pickle, by_safetensors):
            other = PSConv2d(8, 12, 3, taps_per_kernel=3, seed=99)
            other.load_state_dict(state)
            assert other.declared == Declared(family, dict(layer.declared.params))
            assert torch.equal(other.mask, layer.mask)
            assert torch.equal(other(x), layer(x))


class TestFixedMaskLayer:
    def test_the_default_keeps_4_of_9_and_reaches_every_position(self):
        layer = PSConv2d(16, 32, 3)
        assert (layer.mask.sum(dim=(2, 3)) == 4).all()
        assert layer.mask.any(dim=1).all()
        assert layer.declared == Declared("regular", {"taps_per_kernel": 4, "seed": 1})
        assert "support=regular, taps_per_kernel=4, seed=1" in repr(layer)

    def test_initial_outputs_vary_as_much_as_those_of_a_dense_layer(self):
        torch.manual_seed(0)
        x = torch.randn(8, 64, 12, 12)
        with torch.no_grad():
            plain = nn.Conv2d(64, 256, 3, bias=False)(x).std()
            for taps in (2, 4, 9):
                assert float(PSConv2d(64, 256, 3, bias=False, taps_per_kernel=taps)(x).std() / plain) == pytest.approx(1, abs=0.02)

    def test_a_stem_that_cannot_reach_every_position_warns_with_the_numbers(self):
        with pytest.warns(CoverageWarning, match=r"the 3 × 2 taps of a filter reach at most 6 of the 9 positions of the window; 3 taps per kernel"):
            layer = PSConv2d(3, 8, 3, taps_per_kernel=2)
        assert (layer.mask.any(dim=1).sum(dim=(1, 2)) == 6).all()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            PSConv2d(3, 8, 3, taps_per_kernel=3)

    def test_an_unknown_family_is_refused_with_the_nearest(self):
        with pytest.raises(UsageError, match=r"unknown mask family 'periodical'.*Did you mean 'periodic'"):
            PSConv2d(4, 4, 3, support="periodical")

    def test_parameters_of_another_family_are_refused_by_name(self):
        with pytest.raises(UsageError, match=r"PSConv2d with support='regular' takes no argument 'period'; it takes taps_per_kernel"):
            PSConv2d(4, 4, 3, period=8)

    @pytest.mark.parametrize("text", [b"", b"\xff", b"[]", b'{"family": "regular"}', b'{"family": "regular", "params": 3}', b"[" * 100_000, b" " * (2 << 20)])
    def test_a_state_dict_with_a_broken_declaration_is_refused(self, text):
        layer = PSConv2d(4, 4, 3)
        state = {**layer.state_dict(), "_extra_state": torch.frombuffer(bytearray(text), dtype=torch.uint8) if text else torch.zeros(0, dtype=torch.uint8)}
        with pytest.raises(CorruptFileError, match="does not say which mask a pSConv layer has"):
            layer.load_state_dict(state)

    @pytest.mark.parametrize("size", [3, 5, (1, 5), (3, 7)])
    def test_a_skeleton_keeps_the_cross(self, size):
        layer = SkeletonConv2d(4, 4, size, padding=1)
        rows, columns = layer.kernel_size
        cross = [[row == rows // 2 or column == columns // 2 for column in range(columns)] for row in range(rows)]
        assert (layer.mask == torch.tensor(cross)).all()
        assert layer.declared.family == "one-pattern"

    def test_a_skeleton_has_no_even_kernel(self):
        with pytest.raises(UsageError, match="a kernel of 2x2 has no middle"):
            SkeletonConv2d(4, 4, 2)
