"""A plan is checked completely before a byte of it is used: damaged ones are refused, none crashes."""

import re
from pathlib import Path

import numpy as np
import pytest
from test_convert_onnx_layers import CASES, PAIRS, single
from test_runtime_segments import all_alike

from rsk_deploy.runtime import _native
from rsk_deploy.runtime.plan import planned
from rsk_deploy.runtime.records import HEADER, SPACES, STEP, TENSOR, aligned, encode

NATIVE = Path(__file__).parent.parent / "runtime" / "native"
STEPS = ["conv", "conv 3-d", "linear", "max pool", "activation relu", "prelu", "affine", "global mean", "softmax", "group norm", "lrn", "pad", "resize linear"]


def plan_of(case="conv"):
    *shapes, kind, fields = (CASES | PAIRS)[case]
    return encode(planned(single(kind, fields, *shapes), 2, _native.kernels()))


def plan_of_loops(wide=False):
    *shapes, kind, fields = CASES["conv"]
    return encode(planned(single(kind, fields, *shapes), 4, _native.kernels(), schedule=all_alike(4 if wide else 1, wide)))


def parts(plan):
    """The header, the tensors and the steps of a plan, as writable records."""
    header = plan[: HEADER.itemsize].view(HEADER)
    tensors_end = HEADER.itemsize + int(header["tensors"][0]) * TENSOR.itemsize
    steps_end = tensors_end + int(header["steps"][0]) * STEP.itemsize
    return header[0], plan[HEADER.itemsize : tensors_end].view(TENSOR), plan[tensors_end:steps_end].view(STEP)


def copied(plan, size=None):
    copy = aligned(size or plan.size)
    copy[:] = plan[: copy.size]
    return copy


def set_header(field, value):
    def change(header, _tensors, _steps):
        header[field] = value

    return change


def set_tensor(field, value):
    def change(_header, tensors, _steps):
        tensors[field][0] = value

    return change


def set_step(field, value, step=-1):
    def change(_header, _tensors, steps):
        steps[field][step] = value

    return change


def set_int(index, value):
    def change(_header, _tensors, steps):
        steps["ints"][-1][index] = value

    return change


DAMAGE = {
    "magic": (set_header("magic", b"NOTAPLAN"), "this is no plan of this version of the runtime"),
    "length": (set_header("bytes", 1), "the plan is truncated"),
    "many tensors": (set_header("tensors", 2**32 - 1), "the plan is truncated"),
    "many steps": (set_header("steps", 2**31), "the plan is truncated"),
    "huge arena": (set_header("arena_floats", 2**60), "the plan asks for too much memory"),
    "blob outside": (set_header("blob_at", 2**62), "the plan's blob is misplaced"),
    "constants outside": (set_header("constant_floats", 2**30), "the plan's constants are truncated"),
    "space": (set_tensor("space", len(SPACES)), "a tensor lies in no space"),
    "rank": (set_tensor("rank", 9), "a tensor has too many axes"),
    "offset": (set_tensor("offset", 2**62), "a tensor begins outside its space"),
    "before": (set_tensor("before", 2**40), "a tensor begins outside its space"),
    "after": (set_tensor("after", 2**40), "a tensor ends outside its space"),
    "dims": (set_tensor("dims", [2**40] * 8), "a tensor is empty or too large"),
    "strides": (set_tensor("strides", [2**30] * 8), "a tensor steps outside its space"),
    "operation": (set_step("op", 99), "a step has an unknown operation"),
    "input": (set_step("inputs", [1000, -1, -1, -1]), "a step reads no tensor"),
    "no input": (set_step("inputs", [-1, -1, -1, -1], 0), "a step lacks an input"),
    "output": (set_step("output", -1), "a step writes no tensor"),
    "kernel": (set_step("kernel", b"x" * 24), "a kernel's name has no end"),
    "array": (set_step("blobs", [[2**40, 4]] * 5), "an array lies outside the plan"),
    "parameter": (set_int(0, 2**40), "a parameter is out of range"),
}

DAMAGE_OF_LOOPS = {
    "no turns": (set_step("turns", 0), "a step has no turns, or more than the input has elements"),
    "countless turns": (set_step("turns", 2**31), "a step has no turns, or more than the input has elements"),
    "more turns than images": (set_step("turns", 5, 0), "a tensor leaves its space in a later turn"),
    "large advance": (set_tensor("advance", 2**62), "a tensor leaves its space in a later turn"),
    "backwards": (set_tensor("advance", -1), "a tensor leaves its space in a later turn"),
}


@pytest.mark.parametrize("case", DAMAGE_OF_LOOPS)
def test_a_plan_with_a_damaged_loop_is_refused_in_a_sentence(case):
    change, message = DAMAGE_OF_LOOPS[case]
    plan = plan_of_loops()
    assert set(parts(plan)[2]["turns"][:2]) == {4}  # the last step hands out
    _native.Engine(plan, 1)
    change(*parts(plan))
    with pytest.raises(ValueError, match=re.escape(message)):
        _native.Engine(plan, 1)


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_plan_is_refused_in_a_sentence(case):
    change, message = DAMAGE[case]
    plan = plan_of()
    change(*parts(plan))
    with pytest.raises(ValueError, match=re.escape(message)):
        _native.Engine(plan, 1)


def test_a_plan_for_another_machine_is_refused():
    plan = plan_of()
    _, _, steps = parts(plan)
    steps["kernel"][steps["op"] == 0] = b"riscv/vector"
    with pytest.raises(NotImplementedError, match="names the kernel 'riscv/vector', which this build does not have"):
        _native.Engine(plan, 1)


@pytest.mark.parametrize("case", STEPS)
def test_a_truncated_plan_is_refused(case):
    plan = plan_of(case)
    for size in [1, 8, 55, *range(64, plan.size, max(1, plan.size // 40))]:
        with pytest.raises(ValueError, match="truncated"):
            _native.Engine(copied(plan, size), 1)


@pytest.mark.parametrize("case", [*STEPS, "in turns", "side by side"])
def test_a_plan_with_any_bit_flipped_runs_or_is_refused(case):
    plan, rng = plan_of(case) if case in STEPS else plan_of_loops(case == "side by side"), np.random.default_rng(0)
    sizes = parts(plan)[0]
    ports = plan[HEADER.itemsize + int(sizes["tensors"]) * TENSOR.itemsize + int(sizes["steps"]) * STEP.itemsize :][: 8 * 2].view("<u8")
    for _ in range(300):
        broken = copied(plan)
        broken[rng.integers(min(plan.size, 4096))] ^= 1 << rng.integers(8)
        try:
            engine = _native.Engine(broken, 1)
        except (ValueError, NotImplementedError, MemoryError):
            continue
        if max(engine.memory()) > 1 << 26:
            continue
        try:
            engine.run([np.zeros(int(ports[0]), np.float32)], [np.zeros(int(ports[1]), np.float32)], timed=False)
        except ValueError as error:
            assert "wrong size" in str(error) or "wrong number" in str(error)  # noqa: PT017 - the damage changed what goes in or out
