"""Which layer is at fault, which could mend it, and which is clear."""

from __future__ import annotations

import pytest

from qwenprof.diagnosis.responsibility import WHY_THE_GATE, Layer, responsibility
from qwenprof.record.record import Facts, Record, Row
from tests.diagnosis.convolutions import (
    GATED,
    HEALTHY_CPU,
    HEALTHY_GPU,
    compared,
    pair,
    row,
    without_interval,
)
from tests.diagnosis.handmade import record

CUDNN_DIRECT = row("cudnn_convolution", 0.002, 8000.0, backend="Cudnn")
CHANNELS_LAST = row("channels_last_3d", 0.006, 2700.0, backend="Cudnn")


def roles(given: Record) -> dict[str, str]:
    return {layer.name: layer.role for layer in responsibility(given)}


def layer(given: Record, name: str) -> Layer:
    return next(each for each in responsibility(given) if each.name == name)


def gated(*others: Row, backend: str | None = "SlowDilated3d", torch: Facts = GATED) -> Record:
    return compared([*pair(backend, 16.1, 0.0003), *others], torch=torch)


def test_a_library_is_at_fault_only_if_it_loses_badly_and_that_matters() -> None:
    """Healthy ones lose to a matrix product too, by 2 to 20 times as published."""
    mild = compared(pair("Mkldnn", 0.004, 0.001), device_type="cpu")
    cheap = compared(pair("Mkldnn", 0.040, 0.001), device_type="cpu", forward_s=40.0)
    given = compared(pair("Mkldnn", 0.040, 0.001), device_type="cpu", forward_s=0.4)

    assert roles(mild)["oneDNN"] == roles(cheap)["oneDNN"] == "could fix"
    assert roles(given) == {"model code": "could fix", "PyTorch": "could fix", "oneDNN": "at fault"}
    assert "It calls the library as it should (Mkldnn)" in layer(given, "PyTorch").evidence[0]
    assert layer(given, "oneDNN").evidence == (
        "It is called, and takes 40.0 ms for what a matrix product does in 1.00 ms.",
    )
    assert "40.0 x as fast" in layer(given, "model code").evidence[0]
    assert all(each.fix for each in responsibility(given))


def test_a_library_that_loses_by_less_than_twice_could_fix_it() -> None:
    given = compared(pair("Cudnn", 0.0018, 0.001))

    assert roles(given) == {"model code": "could fix", "PyTorch": "could fix", "cuDNN": "could fix"}


def test_a_library_that_the_gate_keeps_away_is_clear() -> None:
    given = gated()

    assert roles(given) == {"model code": "could fix", "PyTorch": "at fault", "cuDNN": "clear"}
    pytorch, cudnn = layer(given, "PyTorch"), layer(given, "cuDNN")
    assert (
        "runs its own slow loop SlowDilated3d, because the gate of torch 2.9.0"
        in (pytorch.evidence[0])
    )
    assert "cuDNN is passed over where all of this holds, and it does" in pytorch.evidence[1]
    assert cudnn.evidence == ("cuDNN is never called for it.", WHY_THE_GATE)
    assert (bool(pytorch.fix), cudnn.fix) == (True, "")


def test_that_the_library_is_fast_when_it_is_reached_is_evidence_for_both() -> None:
    given = gated(CUDNN_DIRECT, CHANNELS_LAST)

    for name in ("PyTorch", "cuDNN"):
        told = layer(given, name).evidence
        assert "cudnn_convolution: 8,000 x as fast (Cudnn)." in told
        assert "channels_last_3d: 2,700 x as fast (Cudnn)." in told


def test_a_way_round_that_is_no_faster_is_no_evidence() -> None:
    slow = row("channels_last_3d", 15.0, 1.07, backend="SlowDilated3d")

    assert len(layer(gated(slow), "cuDNN").evidence) == 2


@pytest.mark.parametrize(
    ("given", "library"),
    [
        (gated(torch=HEALTHY_GPU | {"cudnn_enabled": False}), "cuDNN"),
        (
            compared(
                pair("Slow3d", 7.7, 0.009),
                device_type="cpu",
                torch=HEALTHY_CPU | {"onednn_enabled": False},
            ),
            "oneDNN",
        ),
        (
            compared(
                pair("Slow3d", 7.7, 0.009),
                device_type="cpu",
                convolution={"library_switched_off": True},
            ),
            "oneDNN",
        ),
    ],
)
def test_a_library_that_somebody_switched_off_is_the_fault_of_the_settings(
    given: Record, library: str
) -> None:
    assert roles(given) == {
        "settings": "at fault",
        "model code": "could fix",
        "PyTorch": "clear",
        library: "clear",
    }
    assert layer(given, "settings").fix == "switch it on again"
    assert layer(given, "PyTorch").evidence == (
        f"It does what the settings say: {library} is switched off.",
    )


def test_a_slow_loop_without_a_known_reason_is_still_pytorchs() -> None:
    given = gated(torch=HEALTHY_GPU)

    assert roles(given)["PyTorch"] == "at fault"
    assert "because" not in " ".join(layer(given, "PyTorch").evidence)


@pytest.mark.parametrize("conv_s", [0.0010, 0.0009, 0.00102])
def test_where_nothing_is_lost_everybody_is_clear(conv_s: float) -> None:
    given = compared(pair("Cudnn", conv_s, 0.001))

    assert roles(given) == {"model code": "clear", "PyTorch": "clear", "cuDNN": "clear"}
    assert all("nothing is lost" in each.evidence[0] for each in responsibility(given))
    assert not any(each.fix for each in responsibility(given))


def test_an_interval_that_allows_a_loss_clears_nobody() -> None:
    conv, linear = pair("Cudnn", 0.001, 0.001)
    wide = [conv, linear | {"speedup_low": 0.9, "speedup_high": 1.2}]

    assert "clear" not in roles(compared(wide)).values()


@pytest.mark.parametrize(
    "given",
    [
        compared(pair(None, 0.004, 0.0003), torch=GATED),  # closed, but 13 x may be a library's
        compared(pair(None, 16.1, 0.0003), torch=HEALTHY_GPU),  # nothing says that it is closed
        compared(pair(None, 16.1, 0.0003), torch={}),
    ],
)
def test_a_backend_that_nobody_asked_for_leaves_both_open(given: Record) -> None:
    assert roles(given) == {
        "model code": "could fix",
        "PyTorch": "not assessed",
        "cuDNN": "not assessed",
    }
    assert "not recorded" in layer(given, "PyTorch").evidence[0]


def test_a_closed_gate_and_an_unmistakable_factor_do_without_the_backend() -> None:
    assert roles(gated(backend=None)) == {
        "model code": "could fix",
        "PyTorch": "at fault",
        "cuDNN": "clear",
    }


def test_few_samples_change_nobodys_part() -> None:
    conv, linear = pair("SlowDilated3d", 16.1, 0.0003)

    assert roles(compared([conv, without_interval(linear)], torch=GATED)) == roles(gated())


def test_a_device_that_is_not_known_has_a_library_without_a_name() -> None:
    given = compared(pair("Mps", 0.004, 0.001), device_type="mps")

    assert list(roles(given)) == ["model code", "PyTorch", "vendor library"]


def test_where_nothing_was_compared_there_are_no_layers() -> None:
    assert responsibility(record()) == []
    assert responsibility(compared(pair("Cudnn", 0.004, 0.001)[:1])) == []
