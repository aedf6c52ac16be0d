"""Choice by measurement: the whole network runs with one contender of every convolution after the other, each layer keeps its fastest.

So a layer is timed where it will run: with the caches as its neighbours leave them, on as many threads, packing and copies included.
A network whose structured convolutions can be sums of smaller dense ones is tuned in both forms, and the faster one runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from rsk_deploy.ir import Graph, Packed
from rsk_deploy.packing import pack, unpack
from rsk_deploy.rewrite import ALWAYS, lower
from rsk_deploy.runtime import _native
from rsk_deploy.runtime.choose import Plan, ways
from rsk_deploy.runtime.cost import Work
from rsk_deploy.runtime.plan import planned
from rsk_deploy.runtime.records import Program, encode
from rsk_deploy.runtime.tuned import Measured, recall, remember, signature

MOST = 8
FAR = 4.0
"""A way that the model of cost finds so many times as slow as its best is not tried, unless it is the best dense one."""

WARM_UP, RUNS, FORM_RUNS = 2, 7, 15
FORMS = ("as it is", "lowered")


def tuned_program(graph: Graph[Packed], batch: int, kernels: Sequence[str], exact: bool, threads: int) -> Program:
    """The network with its fastest plans, in the form, as it is or lowered, that took the least time when both ran in turns."""
    forms = [graph] if exact else [graph, *lowered(graph)]
    programs = [planned(form, batch, kernels, exact, tuned(form, batch, kernels, exact, threads).__getitem__) for form in forms]
    if len(programs) == 1:
        return programs[0]
    name = signature([works(form, batch, kernels, exact) for form in forms], kernels, threads)
    entry = recall().get(name)
    if entry is None or entry.kernel not in FORMS:
        runs = [runner(program, threads) for program in programs]
        taken = np.median([[sum(run()) for run in runs] for _ in range(WARM_UP + FORM_RUNS)][WARM_UP:], axis=0)
        first, second = np.argsort(taken, kind="stable").tolist()
        micro = [round(float(time), 2) for time in taken]
        entry = Measured(FORMS[first], microseconds=micro[first], runner_up=FORMS[second], runner_up_microseconds=micro[second])
        remember({name: entry})
    return programs[FORMS.index(entry.kernel)]


def lowered(graph: Graph[Packed]) -> list[Graph[Packed]]:
    """The network with its structured convolutions as sums of dense ones, if it has any."""
    result = lower(unpack(graph), "session", ALWAYS)
    return [pack(result)] if any(entry.action == "lowered" for entry in result.log[len(graph.log) :]) else []


def tuned(graph: Graph[Packed], batch: int, kernels: Sequence[str], exact: bool, threads: int) -> Mapping[Work, Plan]:
    """The fastest plan for every convolution's work: as measured before on this machine, or measured now and remembered."""
    contenders = {work: contending(work, kernels, exact) for work in works(graph, batch, kernels, exact)}
    names = {work: signature(work, kernels, threads) for work in contenders}
    before = recall()
    known = {work: before[name] for work, name in names.items() if name in before and any(before[name].is_of(plan) for plan in contenders[work])}
    fresh = {work: plans for work, plans in contenders.items() if work not in known}
    if fresh:
        settled = {work: plan_of(entry, contenders[work]) for work, entry in known.items()}
        new = fastest(fresh, lambda trial: times(graph, batch, kernels, exact, {**settled, **trial}.__getitem__, threads))
        remember({names[work]: entry for work, entry in new.items()})
        known.update(new)
    return {work: plan_of(entry, contenders[work]) for work, entry in known.items()}


def works(graph: Graph[Packed], batch: int, kernels: Sequence[str], exact: bool) -> list[Work]:
    """What the network's convolutions have to do."""
    found: list[Work] = []

    def noted(work: Work) -> Plan:
        found.append(work)
        return ways(work, kernels, exact)[0][1]

    planned(graph, batch, kernels, exact, noted)
    return found


def contending(work: Work, kernels: Sequence[str], exact: bool) -> list[Plan]:
    """The plans worth trying, the likeliest first: the best of each kind, one that writes zeros out or has none, and the next best."""
    found = ways(work, kernels, exact)
    best_of_kind = {(plan.kernel, plan.filled, plan.packed): (cost, plan) for cost, plan in reversed(found)}
    near = [plan for cost, plan in sorted(best_of_kind.values(), key=lambda way: way[0]) if cost <= FAR * found[0][0]]
    dense = [plan for _, plan in found if plan.filled or work.nonzeros == work.weights][:1]
    rest = [plan for cost, plan in found if cost <= FAR * found[0][0]]
    return list(dict.fromkeys([*near[: MOST - 1], *dense, *rest]))[:MOST]


def plan_of(entry: Measured, plans: Sequence[Plan]) -> Plan:
    """The plan that was measured, which says so."""
    plan = next(plan for plan in plans if entry.is_of(plan))
    return replace(plan, reason=f"{entry.told}; {plan.reason}")


def fastest(contenders: Mapping[Work, Sequence[Plan]], run: Callable[[Mapping[Work, Plan]], Mapping[Work, float]]) -> dict[Work, Measured]:
    """The fastest of each work's plans, where ``run`` times one plan for each."""
    found: dict[Work, list[tuple[float, Plan]]] = {work: [] for work in contenders}
    for turn in range(max(map(len, contenders.values()))):
        trial = {work: plans[turn % len(plans)] for work, plans in contenders.items()}
        taken = run(trial)
        for work, plan in trial.items():
            if turn < len(contenders[work]):
                found[work].append((taken[work], plan))
    return {work: winner(sorted(rows, key=lambda row: row[0])) for work, rows in found.items()}


def winner(rows: Sequence[tuple[float, Plan]]) -> Measured:
    """The first of the rows, and what the second is."""
    (best, plan), second = rows[0], rows[1:2]
    entry = Measured(plan.kernel, plan.filled, plan.packed, plan.vectors, round(best, 2))
    for time, other in second:
        how = f"{other.kernel}{' zeros written out' if other.filled else ''}{' packed' if other.packed else ''} {16 * other.vectors} positions"
        entry = replace(entry, runner_up=how, runner_up_microseconds=round(time, 2))
    return entry


def times(graph: Graph[Packed], batch: int, kernels: Sequence[str], exact: bool, choice: Callable[[Work], Plan], threads: int) -> dict[Work, float]:
    """The microseconds of each work, what is copied for it included; the mean over the layers that have it of the median over runs."""
    order: list[Work] = []

    def noted(work: Work) -> Plan:
        order.append(work)
        return choice(work)

    program = planned(graph, batch, kernels, exact, noted)
    run = runner(program, threads)
    medians = np.median([run() for _ in range(WARM_UP + RUNS)][WARM_UP:], axis=0)
    taken: dict[Work, list[float]] = {work: [] for work in order}
    waiting, copied = iter(order), 0.0
    for step, time in zip(program.steps, medians, strict=True):
        if step.op == "conv":
            taken[next(waiting)].append(time + copied)
        copied = copied + time if not step.layers else 0.0
    return {work: float(np.mean(rows)) for work, rows in taken.items()}


def runner(program: Program, threads: int) -> Callable[[], list[float]]:
    """Runs a program on random numbers, and gives the microseconds of each step."""
    engine = _native.Engine(encode(program), threads)
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal(size, np.float32) for size in program.inputs]
    outputs = [np.empty(size, np.float32) for size in program.outputs]
    return lambda: engine.run(inputs, outputs, timed=True)
