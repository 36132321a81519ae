"""With the fix a convolution computes what it did, on every shape, layout and in every mode."""

from __future__ import annotations

import copy
import io
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.profiler import ProfilerActivity, profile

import qwenprof
from qwenprof.fix import patch
from qwenprof.fix.patch import apply_fix, fixed, is_fixed, undo_fix

PATCH = (2, 4, 4)
ROUND_OFF = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}
LAYOUTS = (torch.contiguous_format, torch.channels_last_3d)


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    yield
    undo_fix()
    assert not is_fixed()


def conv3d(*, bias: bool = True, dtype: torch.dtype = torch.float32, **options: Any) -> nn.Conv3d:
    options = {"in_channels": 3, "out_channels": 8, "kernel_size": PATCH, "stride": PATCH} | options
    return nn.Conv3d(**options, bias=bias, dtype=dtype)


def operations(call: Callable[[], Any]) -> set[str]:
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        call()
    return {event.key for event in recorded.key_averages()}


def with_gradients(conv: nn.Conv3d, x: torch.Tensor) -> list[torch.Tensor]:
    """Output, and the gradients of input, weight and bias for a fixed direction."""
    conv.zero_grad()
    given_x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    y = conv(given_x)
    torch.manual_seed(1)
    y.backward(torch.randn(y.shape, dtype=torch.float32).to(y.dtype))
    gradients = [
        given_x.grad,
        conv.weight.grad,
        *([conv.bias.grad] if conv.bias is not None else []),
    ]
    return [y.detach(), *(each for each in gradients if each is not None)]


@settings(deadline=None, max_examples=60)
@given(
    kernel=st.tuples(*[st.integers(1, 4)] * 3),
    grid=st.tuples(*[st.integers(1, 3)] * 3),
    left_over=st.tuples(*[st.integers(0, 3)] * 3),
    channels=st.integers(1, 4),
    samples=st.one_of(st.none(), st.integers(0, 3)),
    bias=st.booleans(),
    dtype=st.sampled_from(list(ROUND_OFF)),
    layout=st.sampled_from(LAYOUTS),
    weight_layout=st.sampled_from(LAYOUTS),
)
def test_output_gradients_and_layout_are_those_of_the_convolution(
    kernel: tuple[int, ...],
    grid: tuple[int, ...],
    left_over: tuple[int, ...],
    channels: int,
    samples: int | None,
    bias: bool,
    dtype: torch.dtype,
    layout: torch.memory_format,
    weight_layout: torch.memory_format,
) -> None:
    sizes = [
        count * width + min(extra, width - 1)
        for count, width, extra in zip(grid, kernel, left_over, strict=True)
    ]
    conv = conv3d(in_channels=channels, kernel_size=kernel, stride=kernel, bias=bias, dtype=dtype)
    conv = conv.to(memory_format=weight_layout)
    batch = [] if samples is None else [samples]
    x = torch.rand(*batch, channels, *sizes, dtype=torch.float32).to(dtype) - 0.5
    x = x.contiguous(memory_format=layout) if batch else x

    plain = with_gradients(conv, x)
    with fixed():
        linear = with_gradients(conv, x)

    for ours, theirs in zip(linear, plain, strict=True):
        scale = float(theirs.abs().max()) if theirs.numel() else 0.0
        assert ours.dtype == theirs.dtype
        assert ours.shape == theirs.shape
        torch.testing.assert_close(
            ours.double(), theirs.double(), rtol=0, atol=ROUND_OFF[dtype] * max(scale, 1.0)
        )
    if layout == weight_layout == torch.contiguous_format:
        assert linear[0].stride() == plain[0].stride()


def test_it_runs_as_one_linear_over_the_weight_itself() -> None:
    conv, x = conv3d(), torch.randn(5, 3, *PATCH)

    with fixed(), torch.inference_mode():
        seen = operations(lambda: conv(x))

    assert "aten::linear" in seen
    assert not {name for name in seen if "conv" in name or name == "aten::clone"}


@pytest.mark.parametrize("size", [(2, 4, 4), (4, 8, 12)])
def test_strides_are_those_of_the_convolution(size: tuple[int, ...]) -> None:
    conv, x = conv3d(), torch.randn(2, 3, *size)

    with fixed():
        ours = conv(x)

    assert ours.stride() == conv(x).stride()
    assert ours.view(2, -1).shape == (2, ours[0].numel())


@pytest.mark.parametrize(
    "options",
    [
        {"stride": (2, 2, 4)},
        {"padding": (0, 1, 1)},
        {"dilation": 2},
        {"groups": 3, "out_channels": 9},
    ],
)
def test_what_overlaps_or_is_no_plain_patch_is_left_alone_bit_for_bit(
    options: dict[str, Any],
) -> None:
    conv, x = conv3d(**options), torch.randn(2, 3, 8, 16, 16)

    with fixed():
        ours = conv(x)
        seen = operations(lambda: conv(x))

    assert torch.equal(ours, conv(x))
    assert "aten::conv3d" in seen


def test_a_pointwise_convolution_is_left_alone() -> None:
    conv = conv3d(kernel_size=1, stride=1)

    with fixed():
        assert "aten::conv3d" in operations(lambda: conv(torch.randn(1, 3, 2, 4, 4)))


@pytest.mark.parametrize(
    "x",
    [
        torch.randn(2, 4, *PATCH),
        torch.randn(2, 3, 1, 4, 4),
        torch.randn(3, 4),
        torch.randn(2, 3, *PATCH, dtype=torch.float64),
    ],
    ids=["channels", "too small", "dimensions", "dtype"],
)
def test_a_wrong_input_has_the_error_of_the_convolution(x: torch.Tensor) -> None:
    conv = conv3d()
    with pytest.raises(RuntimeError) as plain:
        conv(x)

    with fixed(), pytest.raises(RuntimeError) as ours:
        conv(x)

    assert str(ours.value) == str(plain.value)


def test_under_autocast_it_gives_the_lower_precision_as_a_convolution_does() -> None:
    conv, x = conv3d(), torch.randn(2, 3, 4, 8, 8)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain = conv(x)
        with fixed():
            ours = conv(x)

    assert ours.dtype == plain.dtype == torch.bfloat16
    torch.testing.assert_close(ours, plain, atol=2e-2, rtol=0)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_without_gradients(mode: Callable[[], Any]) -> None:
    conv, x = conv3d(), torch.randn(2, 3, 4, 8, 8)

    with mode(), fixed():
        ours = conv(x)

    assert not ours.requires_grad
    torch.testing.assert_close(ours, conv(x).detach())


def test_a_compiled_model_follows_apply_and_undo() -> None:
    model, x = nn.Sequential(conv3d(), nn.Flatten()), torch.randn(2, 3, *PATCH)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    plain = compiled(x)

    apply_fix()
    torch.testing.assert_close(compiled(x), plain)
    assert "aten::conv3d" not in operations(lambda: compiled(x))

    undo_fix()
    compiled(x)
    assert "aten::conv3d" in operations(lambda: compiled(x))


def test_export_takes_other_batches_and_clips() -> None:
    model, steps = nn.Sequential(conv3d()), torch.export.Dim("steps", min=1, max=20)
    sizes = {0: torch.export.Dim("samples"), 2: 2 * steps}

    with fixed():
        exported = torch.export.export(
            model, (torch.randn(2, 3, 4, 8, 8),), dynamic_shapes=(sizes,)
        ).module()

    x = torch.randn(5, 3, 8, 8, 8)
    torch.testing.assert_close(exported(x), model(x))
    assert "aten::conv3d" not in operations(lambda: exported(x))


def test_per_sample_gradients_through_vmap() -> None:
    conv, x = conv3d(), torch.randn(3, 2, 3, *PATCH)

    def total(parameters: dict[str, torch.Tensor], sample: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(conv, parameters, (sample,)).square().sum()

    take = torch.func.vmap(torch.func.grad(total), in_dims=(None, 0))
    parameters = {name: each.detach() for name, each in conv.named_parameters()}
    plain = take(parameters, x)
    with fixed():
        ours = take(parameters, x)

    torch.testing.assert_close(ours, plain)


def test_parameters_stay_and_training_goes_on_through_them() -> None:
    model = nn.Sequential(conv3d(), nn.Flatten(), nn.Linear(8, 1))
    twin, x = copy.deepcopy(model), torch.randn(4, 3, *PATCH)
    names = {name: each.data_ptr() for name, each in model.named_parameters()}
    optimizers = [torch.optim.AdamW(each.parameters(), lr=0.01) for each in (model, twin)]

    for step in range(4):
        for trained, optimizer in zip((model, twin), optimizers, strict=True):
            with fixed() if trained is model and step % 2 else torch.enable_grad():
                trained(x).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

    assert {name: each.data_ptr() for name, each in model.named_parameters()} == names
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_samples_over_a_grid_through_vmap() -> None:
    conv, x = conv3d(), torch.randn(3, 2, 3, 4, 8, 8)

    with fixed():
        ours = torch.func.vmap(conv)(x)

    torch.testing.assert_close(ours, torch.func.vmap(conv)(x))


@pytest.mark.parametrize(
    "options", [{}, {"kernel_size": 3, "stride": 1, "padding": 1}], ids=["patches", "overlapping"]
)
def test_script_and_trace_work_with_the_fix(options: dict[str, Any]) -> None:
    conv, x = conv3d(**options), torch.randn(2, 3, 4, 8, 8)
    plain = conv(x)

    with fixed():
        scripted, traced = torch.jit.script(conv), torch.jit.trace(conv, (x,))

    torch.testing.assert_close(scripted(x), plain)
    torch.testing.assert_close(traced(x), plain)


@pytest.mark.parametrize("samples", [2, 5])
def test_an_input_that_is_a_view_of_something_else(samples: int) -> None:
    conv = conv3d()
    wide = torch.randn(8, 3, 8, 16, 24)
    views = [
        wide[:samples, :, ::2, :8, 3:11],
        wide.transpose(3, 4)[:samples, :, :4, :8, :8],
        wide[:1, :, :4, :8, :8].expand(samples, -1, -1, -1, -1),
    ]

    for x in views:
        with fixed():
            ours = conv(x)
        torch.testing.assert_close(ours, conv(x))


def test_another_patch_before_ours_is_kept_and_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, calls = nn.Conv3d._conv_forward, []

    def theirs(self: nn.Conv3d, *args: Any) -> torch.Tensor:
        calls.append(self)
        return plain(self, *args)

    monkeypatch.setattr(nn.Conv3d, "_conv_forward", theirs)
    patches, overlapping = conv3d(), conv3d(kernel_size=3, stride=1)

    with fixed():
        patches(torch.randn(2, 3, *PATCH))
        overlapping(torch.randn(2, 3, 4, 8, 8))
    assert calls == [overlapping]
    assert nn.Conv3d._conv_forward is theirs


def test_undoing_works_below_somebody_elses_wrapper(monkeypatch: pytest.MonkeyPatch) -> None:
    conv, x = conv3d(), torch.randn(2, 3, *PATCH)
    apply_fix()
    ours, calls = nn.Conv3d._conv_forward, []

    def theirs(self: nn.Conv3d, *args: Any) -> torch.Tensor:
        calls.append(self)
        return ours(self, *args)

    with monkeypatch.context() as context:
        context.setattr(nn.Conv3d, "_conv_forward", theirs)
        assert is_fixed()
        assert "aten::conv3d" not in operations(lambda: conv(x))
        undo_fix()
        assert not is_fixed()
        assert "aten::conv3d" in operations(lambda: conv(x))
        apply_fix()
        assert "aten::conv3d" not in operations(lambda: conv(x))
        assert nn.Conv3d._conv_forward is theirs
        assert len(calls) == 3


def test_a_bias_that_a_convolution_refuses_is_refused() -> None:
    conv, x = conv3d(), torch.randn(2, 3, *PATCH)
    conv.bias = nn.Parameter(torch.zeros(1))
    with pytest.raises(RuntimeError) as plain:
        conv(x)

    with fixed(), pytest.raises(RuntimeError) as ours:
        conv(x)

    assert str(ours.value) == str(plain.value)


def test_a_subclass_that_alters_the_weight_keeps_its_own_arithmetic() -> None:
    class Doubled(nn.Conv3d):
        def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002
            result: torch.Tensor = self._conv_forward(input, 2 * self.weight, self.bias)
            return result

    conv, x = Doubled(3, 8, PATCH, stride=PATCH), torch.randn(2, 3, *PATCH)
    plain = conv(x)

    with fixed():
        torch.testing.assert_close(conv(x), plain)


def test_a_saved_state_knows_nothing_of_the_fix() -> None:
    conv = conv3d()
    buffer = io.BytesIO()

    with fixed():
        torch.save(conv.state_dict(), buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=True)

    assert list(loaded) == ["weight", "bias"]
    assert torch.equal(loaded["weight"], conv.weight)


def test_applying_and_undoing_can_be_repeated_and_nested() -> None:
    original = nn.Conv3d._conv_forward

    apply_fix()
    apply_fix()
    with fixed(), fixed():
        undo_fix()
        assert is_fixed()
    assert nn.Conv3d._conv_forward is original

    apply_fix()
    with fixed():
        pass
    assert is_fixed()
    undo_fix()
    undo_fix()
    assert nn.Conv3d._conv_forward is original


def test_an_error_inside_ends_the_block() -> None:
    with pytest.raises(ZeroDivisionError), fixed():
        raise ZeroDivisionError
    assert not is_fixed()


def test_blocks_of_several_threads_may_overlap() -> None:
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with fixed():
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with fixed():
        thread.start()
        assert entered.wait(10)
    assert is_fixed()
    leave.set()
    thread.join()
    assert not is_fixed()


def test_it_counts_modules_and_calls() -> None:
    convolutions, calls = patch.TALLY.convolutions, patch.TALLY.calls
    conv, other, x = conv3d(), conv3d(stride=(1, 4, 4)), torch.randn(2, 3, *PATCH)

    with fixed():
        for _ in range(3):
            conv(x)
            other(x)
    conv(x)

    assert patch.TALLY.convolutions == convolutions + 1
    assert patch.TALLY.calls == calls + 3


def test_the_public_names_are_these() -> None:
    assert qwenprof.apply_fix is apply_fix
    assert qwenprof.undo_fix is undo_fix
    assert qwenprof.fixed is fixed
