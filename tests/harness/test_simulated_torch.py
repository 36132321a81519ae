"""The simulated GPU under real torch code: what is computed stays right, what it costs is known."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from qwenprof.harness.simulated import SimulatedDevice
from qwenprof.harness.simulated_torch import Faults, SimulatedGpu, Specification

SPECIFICATION = Specification(
    flop_per_s={torch.bfloat16: 4e9, torch.float32: 1e9}, bytes_per_s=1e9, sm_clock_mhz=2000.0
)
N = 64
MATMUL_S = 2 * N**3 / 1e9
LAUNCH_S = 5e-6


def gpu(**faults: float | bool) -> SimulatedGpu:
    return SimulatedGpu(specification=SPECIFICATION, faults=Faults(**faults))  # type: ignore[arg-type]


def device_s(simulated: SimulatedGpu, work: Callable[[], object]) -> float:
    """Seconds on the device's timeline, on an idle device."""
    with simulated.running(), torch.inference_mode():
        simulated.device.synchronize()
        start = simulated.device.mark()
        work()
        return simulated.device.elapsed_s(start, simulated.device.mark())


def square(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.ones(N, N, dtype=dtype)


def test_results_are_those_of_the_cpu() -> None:
    layer = nn.MultiheadAttention(16, 4, batch_first=True).eval()
    x = torch.rand(2, 8, 16, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = layer(x, x, x)[0]
        with gpu().running():
            torch.testing.assert_close(layer(x, x, x)[0], expected)


def test_a_matrix_product_takes_its_flop_and_a_copy_its_bytes() -> None:
    x, y = square(), torch.zeros(1000, 1000)

    assert device_s(gpu(), lambda: x @ x) == pytest.approx(MATMUL_S + LAUNCH_S)
    assert device_s(gpu(), x.bfloat16) == pytest.approx(6 * N**2 / 1e9 + LAUNCH_S)
    assert device_s(gpu(), lambda: y.add_(1.0)) == pytest.approx(y.nbytes / 1e9 + LAUNCH_S)


def test_the_dtype_has_a_rate_of_its_own() -> None:
    x = square(torch.bfloat16)
    assert device_s(gpu(), lambda: x @ x) == pytest.approx(MATMUL_S / 4 + LAUNCH_S)


def test_fused_attention_has_its_flop() -> None:
    x = torch.rand(1, 2, 256, 8)
    took_s = device_s(gpu(), lambda: nn.functional.scaled_dot_product_attention(x, x, x))
    assert took_s == pytest.approx(2 * 2 * 2 * 256 * 256 * 8 / 1e9 + LAUNCH_S)


def test_views_and_allocations_cost_nothing() -> None:
    simulated, x = gpu(), square()
    assert device_s(simulated, lambda: x.T.reshape(-1)[:3].detach().view(3, 1).unbind()) > 0
    before = simulated.operators
    assert device_s(simulated, lambda: (x.T[:, :3].detach(), torch.empty(3), x.view(-1))) == 0
    assert simulated.operators == before


@pytest.mark.parametrize(
    ("ask", "waits"),
    [
        (lambda x: x.sum().item(), 1),
        (lambda x: bool(x.sum() > 0), 1),
        (lambda x: x.nonzero(), 1),
        (lambda x: x[x > 0], 1),
        (lambda x: x[torch.arange(3)], 0),
        (lambda x: x.tolist(), 1),
        (lambda x: x.cpu(), 1),
        (lambda x: torch.repeat_interleave(torch.tensor([1, 2])), 1),
        (lambda x: torch.repeat_interleave(torch.tensor([1, 2]), output_size=3), 0),
        (lambda x: (x @ x).relu().sum(), 0),
    ],
)
def test_what_the_host_has_to_know_makes_it_wait(
    ask: Callable[[torch.Tensor], object], waits: int
) -> None:
    # GIVEN a device that is busy WHEN the host asks for something
    simulated, x = gpu(lengths_wait=True), square()
    with simulated.running():
        _ = x @ x
        before_s = simulated.device.now_s()
        ask(x)
    # THEN it waits until the device is done, or it does not
    assert simulated.waits == waits
    assert (simulated.device.now_s() - before_s > MATMUL_S) is bool(waits)


def test_lengths_are_known_if_nothing_else_is_said() -> None:
    simulated, x = gpu(), square()
    with simulated.running():
        x.tolist(), x.cpu(), torch.repeat_interleave(torch.tensor([1, 2]))
    assert simulated.waits == 0


def test_a_slow_device_is_slow_in_everything() -> None:
    x, slow = square(), gpu(rate_factor=0.25)
    assert device_s(slow, lambda: x @ x) == pytest.approx(4 * MATMUL_S + LAUNCH_S)
    assert slow.read().reasons == 0
    assert slow.read().sm_clock_mhz == 500.0


def test_a_device_is_throttled_from_its_moment_on_and_says_so() -> None:
    # GIVEN a device that gets hot after one product
    x, hot = square(), gpu(throttled_from_s=1.5 * MATMUL_S, throttled_factor=0.5)
    # WHEN two are done THEN the second takes longer, and the gauge tells why
    took_s = [device_s(hot, lambda: x @ x), hot.read().throttled]
    took_s += [device_s(hot, lambda: x @ x), device_s(hot, lambda: x @ x), hot.read().throttled]
    assert took_s == [
        pytest.approx(MATMUL_S + LAUNCH_S),
        0.0,
        pytest.approx(MATMUL_S + LAUNCH_S),
        pytest.approx(2 * MATMUL_S + LAUNCH_S),
        1.0,
    ]
    assert hot.neighbours() == 0


def test_the_first_call_of_a_shape_tunes_itself() -> None:
    simulated, x = gpu(autotune_s=3.0), square()
    with simulated.running():
        _ = x @ x
        first_s = simulated.device.now_s()
        _ = x @ x, x.relu(), x.T @ x
        assert (first_s, simulated.device.now_s()) == (
            pytest.approx(3.0, abs=0.01),
            pytest.approx(3.0, abs=0.01),
        )
        _ = x[:32] @ x
    assert simulated.device.now_s() == pytest.approx(6.0, abs=0.01)


def test_the_host_pays_for_every_operator() -> None:
    simulated, x = gpu(host_operator_s=1e-3), square()
    with simulated.running():
        x.relu().relu()
    assert simulated.device.now_s() == pytest.approx(2 * (1e-3 + LAUNCH_S))


def test_gradients_are_charged_too() -> None:
    simulated, layer = SimulatedGpu(device=SimulatedDevice()), nn.Linear(N, N)
    with simulated.running():
        layer(square()).sum().backward()
    assert layer.weight.grad is not None
    assert torch.equal(layer.weight.grad, torch.full((N, N), float(N)))
    assert simulated.operators >= 4


def test_what_the_harness_repeats_for_its_time_alone_is_not_computed() -> None:
    # GIVEN a product into a tensor that is there, as the matmul stage repeats it
    simulated, x = gpu(), square()
    result = torch.zeros(N, N)
    # WHEN it runs THEN it is charged, and the tensor is what it was
    assert device_s(simulated, lambda: torch.mm(x, x, out=result)) > MATMUL_S
    assert not result.any()
