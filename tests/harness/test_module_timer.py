"""The module timer against forwards whose every kernel is known."""

from __future__ import annotations

import types
from contextlib import suppress
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulation import LAUNCH_S, Kernel, Steps, functional, lookup, timed, within_1_percent
from torch import nn

from qwenprof.harness.module_timer import ModuleTimer, NodeTime, typical
from qwenprof.harness.plan import Allowance
from qwenprof.harness.probe import Node, tree
from qwenprof.harness.sampler import Case, Sampler
from qwenprof.harness.simulated import SimulatedDevice


@dataclass
class Plan:
    """A module to build: its own kernel before and after its children, and how often it runs."""

    before_s: float
    after_s: float
    calls: int
    children: list[Plan] = field(default_factory=list)

    def build(self, device: SimulatedDevice) -> nn.Module:
        built = {f"child{i}": child.build(device) for i, child in enumerate(self.children)}
        calls = [
            module
            for module, child in zip(built.values(), self.children, strict=True)
            for _ in range(child.calls)
        ]
        own = functional(device, self.before_s), functional(device, self.after_s)
        return Steps([own[0], *calls, own[1]], **built)

    def truth(self, path: str = "", times: int = 1) -> dict[str, NodeTime]:
        """What each node must come out with when its parent runs `times` times."""
        calls = times * self.calls
        exclusive_s = calls * (self.before_s + self.after_s)
        found: dict[str, NodeTime] = {}
        inclusive_s = exclusive_s
        for i, child in enumerate(self.children):
            child_path = f"{path}.child{i}" if path else f"child{i}"
            below = child.truth(child_path, calls)
            inclusive_s += below[child_path].inclusive_s
            found |= below
        own = NodeTime(calls=calls, inclusive_s=inclusive_s, exclusive_s=exclusive_s)
        return {path: own} | found


kernels = st.floats(20e-6, 20e-3)
leaves = st.builds(Plan, before_s=kernels, after_s=kernels, calls=st.integers(1, 3))
plans = st.recursive(
    leaves,
    lambda below: st.builds(
        Plan,
        before_s=kernels,
        after_s=kernels,
        calls=st.integers(1, 3),
        children=st.lists(below, min_size=1, max_size=3),
    ),
    max_leaves=12,
)


class TestTruth:
    @settings(max_examples=40, deadline=None)
    @given(plan=plans)
    def test_every_node_of_any_tree_has_its_own_time(self, plan: Plan) -> None:
        # GIVEN any tree of modules whose kernels are known
        plan.calls = 1
        device = SimulatedDevice()
        # WHEN one forward is timed from inside
        measured = timed(device, plan.build(device))
        # THEN every node has its inclusive and exclusive time, and its number of calls
        truth = plan.truth()
        assert set(measured) == set(truth)
        for path, expected in truth.items():
            assert measured[path].calls == expected.calls
            assert measured[path].inclusive_s == within_1_percent(expected.inclusive_s)
            assert measured[path].exclusive_s == within_1_percent(expected.exclusive_s)

    @settings(max_examples=25, deadline=None)
    @given(plan=plans, launch_s=st.floats(1e-6, 1e-3), asynchronous=st.booleans())
    def test_exclusive_times_add_up_to_the_total_on_any_device(
        self, plan: Plan, launch_s: float, asynchronous: bool
    ) -> None:
        # GIVEN any tree, launch-bound or not, on a noisy device with or without a queue
        plan.calls = 1
        device = SimulatedDevice(launch_s=launch_s, asynchronous=asynchronous, noise=0.3)
        # WHEN one forward is timed
        measured = timed(device, plan.build(device))
        # THEN nothing is counted twice and nothing is lost
        total_s = sum(time.exclusive_s for time in measured.values())
        assert total_s == pytest.approx(measured[""].inclusive_s, rel=1e-6)

    def test_functional_work_is_exclusive_time_of_the_parent(self) -> None:
        # GIVEN a forward that does more by itself than its children do
        device = SimulatedDevice()
        child = Kernel(device, 1e-3)
        model = Steps([child, functional(device, 5e-3), child], child=child)
        # WHEN it is timed
        measured = timed(device, model)
        # THEN that work is the parent's own, and the child has both of its calls
        assert measured[""].exclusive_s == within_1_percent(5e-3)
        assert measured["child"].calls == 2
        assert measured["child"].inclusive_s == within_1_percent(2e-3)

    def test_a_synchronisation_in_a_forward_is_its_own_time(self) -> None:
        # GIVEN a forward that waits for the device and thinks before it goes on
        device = SimulatedDevice(sync_s=1e-3)
        first, second = Kernel(device, 2e-3), Kernel(device, 3e-3)
        model = Steps(
            [first, device.synchronize, lambda: device.host_work(4e-3), second],
            first=first,
            second=second,
        )
        # WHEN it is timed
        measured = timed(device, model)
        # THEN the idleness is the forward's, not the next child's
        assert measured[""].exclusive_s == within_1_percent(5e-3)
        assert measured["first"].inclusive_s == within_1_percent(2e-3)
        assert measured["second"].inclusive_s == within_1_percent(3e-3)

    def test_a_storm_of_launches_is_found_where_it_rages(self) -> None:
        # GIVEN a part of many launches of nothing beside one long kernel
        device = SimulatedDevice()
        storm = Steps([functional(device, 1e-7)] * 4000)
        honest = Kernel(device, 1e-3)
        model = Steps([storm, honest], storm=storm, honest=honest)
        # WHEN the model is timed
        measured = timed(device, model)
        # THEN the storm takes what its launches take, less what it hides behind the kernel
        hidden_s = 1e-3
        assert measured["storm"].inclusive_s == pytest.approx(4000 * LAUNCH_S - hidden_s, rel=0.02)

    def test_a_shared_module_has_its_first_name(self) -> None:
        # GIVEN one module under two names
        device = SimulatedDevice()
        shared = Kernel(device, 1e-3)
        model = Steps([shared, shared], one=shared, other=shared)
        # WHEN it is timed
        measured = timed(device, model)
        # THEN it is one node with two calls
        assert set(measured) == {"", "one"}
        assert measured["one"].calls == 2
        assert measured["one"].inclusive_s == within_1_percent(2e-3)

    def test_several_passes_are_kept_apart(self) -> None:
        # GIVEN a model that gets slower from call to call
        device = SimulatedDevice()
        child = Kernel(device, 1e-3)
        model = Steps([child], child=child)
        timer = ModuleTimer(device, tree(model))
        # WHEN it is called three times
        with timer.attached():
            for kernel_s in (1e-3, 2e-3, 3e-3):
                child.kernel_s = kernel_s
                model()
        # THEN there are three passes, in that order, and they are given out once
        passes = timer.collect()
        measured = [each["child"].inclusive_s for each in passes]
        assert measured == [within_1_percent(k) for k in (1e-3, 2e-3, 3e-3)]
        assert timer.collect() == []

    def test_a_sampler_drives_it(self) -> None:
        # GIVEN a model, timed with and without marks in turn
        device = SimulatedDevice(noise=0.02)
        first, second = Kernel(device, 4e-3), Kernel(device, 6e-3)
        model = Steps([first, second], first=first, second=second)
        timer = ModuleTimer(device, tree(model))
        # WHEN the sampler has had its way
        Sampler(device).compare(
            {"with marks": Case(call=model, around=timer.attached), "plain": model},
            Allowance(case_s=10.0, limit_s=20.0),
        )
        # THEN the parts are known and only the marked forwards were recorded
        steady = typical(timer.collect())
        assert steady["first"].inclusive_s == within_1_percent(4e-3)
        assert steady["second"].inclusive_s == within_1_percent(6e-3)
        assert steady[""].inclusive_s == within_1_percent(10e-3)


class TestHelpers:
    def test_a_function_of_a_python_module_is_timed_and_put_back(self) -> None:
        # GIVEN a forward that looks a function up in its file
        device = SimulatedDevice()
        library = types.ModuleType("library")
        library.interpolate = original = functional(device, 3e-3)  # type: ignore[attr-defined]
        model = Steps([lookup(library, "interpolate"), functional(device, 1e-3)])
        helper = Node(path="interpolate", kind="function", owner=library, attribute="interpolate")
        # WHEN the model is timed
        measured = timed(device, model, [helper])
        # THEN the function has its time, the forward the rest, and the file its function
        assert measured["interpolate"].inclusive_s == within_1_percent(3e-3)
        assert measured[""].exclusive_s == within_1_percent(1e-3)
        assert library.interpolate is original

    def test_a_method_is_timed_and_put_back(self) -> None:
        # GIVEN a module with a method that its forward calls with arguments
        device = SimulatedDevice()

        class Tower(nn.Module):
            def rotary(self, times: int, *, kernel_s: float) -> str:
                for _ in range(times):
                    device.kernel(kernel_s)
                return "rotated"

            def forward(self) -> str:
                return self.rotary(2, kernel_s=1e-3)

        tower = Tower()
        helper = Node(path="rotary", kind="function", owner=tower, attribute="rotary")
        # WHEN it is timed
        measured = timed(device, tower, [helper])
        # THEN it was called as before, and the class's method is what the instance has again
        assert measured["rotary"].inclusive_s == within_1_percent(2e-3)
        assert tower() == "rotated"
        assert "rotary" not in vars(tower)

    def test_a_function_on_the_instance_is_put_back(self) -> None:
        # GIVEN a module whose method somebody has replaced already
        device = SimulatedDevice()
        model = Steps([])
        model.steps = [lookup(model, "helper")]
        replacement = functional(device, 1e-3)
        model.helper = replacement
        helper = Node(path="helper", kind="function", owner=model, attribute="helper")
        # WHEN it is timed THEN the replacement is there again
        timed(device, model, [helper])
        assert vars(model)["helper"] is replacement


class TestTrouble:
    @pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()])
    def test_after_an_error_all_is_put_back_and_the_timer_is_usable(
        self, error: BaseException
    ) -> None:
        # GIVEN a model whose helper, deep inside, fails the first time
        device = SimulatedDevice()
        library = types.ModuleType("library")
        fails = [error]

        def helper() -> None:
            device.kernel(1e-3)
            if fails:
                raise fails.pop()

        library.helper = helper  # type: ignore[attr-defined]
        inner = Steps([lookup(library, "helper")])
        model = Steps([inner], inner=inner)
        node = Node(path="helper", kind="function", owner=library, attribute="helper")
        timer = ModuleTimer(device, [*tree(model), node])
        # WHEN it fails
        with pytest.raises(type(error)), timer.attached():
            model()
        # THEN no hook is left, the broken pass is no pass, and the next one is
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
        assert library.helper is helper
        assert timer.collect() == []
        with timer.attached():
            model()
        assert [each["helper"].calls for each in timer.collect()] == [1]

    def test_an_error_that_is_caught_within_the_context_spoils_one_pass_only(self) -> None:
        # GIVEN a model that fails in its second of three forwards
        device = SimulatedDevice()
        count = 0

        def sometimes() -> None:
            nonlocal count
            count += 1
            if count == 2:
                raise RuntimeError("broken")

        child = Kernel(device, 1e-3)
        model = Steps([sometimes, child], child=child)
        timer = ModuleTimer(device, tree(model))
        # WHEN the caller goes on
        with timer.attached():
            for _ in range(3):
                with suppress(RuntimeError):
                    model()
        # THEN the two whole forwards are what counts
        assert [each["child"].calls for each in timer.collect()] == [1, 1]

    def test_an_error_that_a_forward_catches_itself_spoils_nothing(self) -> None:
        # GIVEN a forward that tries a child that fails and then takes another
        device = SimulatedDevice()

        def fail() -> None:
            raise RuntimeError("not here")

        class Careful(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.broken, self.sound = Steps([fail]), Kernel(device, 1e-3)

            def forward(self) -> None:
                try:
                    self.broken()
                except RuntimeError:
                    self.sound()

        # WHEN it is timed
        timer = ModuleTimer(device, tree(model := Careful()))
        with timer.attached():
            model()
        # THEN the pass counts
        (only,) = timer.collect()
        assert only["sound"].inclusive_s == within_1_percent(1e-3 + LAUNCH_S)

    def test_it_works_while_an_error_is_being_handled(self) -> None:
        # GIVEN a caller who measures within an except block
        device = SimulatedDevice()
        model = Steps([functional(device, 1e-3)])
        try:
            raise ValueError("an earlier one")
        except ValueError:
            measured = timed(device, model)
        # THEN the pass counts
        assert measured[""].inclusive_s == within_1_percent(1e-3)

    def test_a_part_called_from_outside_is_ignored(self) -> None:
        # GIVEN a model of which somebody calls a part directly
        device = SimulatedDevice()
        child = Kernel(device, 1e-3)
        model = Steps([child], child=child)
        timer = ModuleTimer(device, tree(model))
        # WHEN that happens before, between and after forwards
        with timer.attached():
            child()
            model()
            child()
            model()
            child()
        # THEN only calls within a forward count
        assert [each["child"].calls for each in timer.collect()] == [1, 1]

    def test_nothing_is_recorded_while_detached(self) -> None:
        device = SimulatedDevice()
        model = Steps([functional(device, 1e-3)])
        timer = ModuleTimer(device, tree(model))
        model()
        assert timer.collect() == []
