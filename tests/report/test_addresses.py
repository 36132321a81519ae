"""An address of a network is gone wherever it stands; the version of a library stays."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qwenprof.report.redact import redacted, redacted_text
from tests.report.redaction import encoded, pretend, record

QUICK = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # addresses
        ("10.0.0.5 192.168.1.17:8080", "<ip> <ip>:8080"),
        ("cuda:0 10.0.0.5, cuDNN at 10.0.0.5", "cuda:0 <ip>, cuDNN at <ip>"),
        ("fe80::1ff:fe23%eth0 [2001:db8::2]:80", "<ip> [<ip>]:80"),
        ("2001:db8:1:2:3:4:5:6: refused", "<ip>: refused"),
        ("aa:bb:cc:dd:ee:ff AA-BB-CC-DD-EE-FF 0123.4567.89ab", "<mac> <mac> <mac>"),
        ("kernel: 172.16.4.9 refused", "kernel: <ip> refused"),
        ("driver 10.0.0.5, version 10.0.0.5", "driver <ip>, version <ip>"),
        ("torch 192.168.17.42", "torch <ip>"),
        ("cuDNN 192.168.1.7-eth0, host_172.16.4.9", "cuDNN <ip>-eth0, host_<ip>"),
    ],
)  # fmt: skip
def test_an_address_is_gone(text: str, expected: str) -> None:
    assert redacted_text(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "driver 580.65.06, Linux 6.8.0-45-generic, kernel 5.15.167.4, cuDNN 9.10.2.21",
        "cuFFT 10.9.0.58; TensorRT version 10.0.1.6; libcurand.so.10.3.9.90; libnvinfer10 10.0.1.6",
        "nvidia_curand_cu12-10.3.9.90-py3-none x==10.3.9.90 cuRAND is 10.3.9.90, 10.3.10.19",
        "v1.2.3.4 1.2.3.4-py3 10.0.1.6+cu128 torch 300.1.2.3 1.2.3.4.5",
    ],
)
def test_the_version_of_a_library_stays(text: str) -> None:
    assert redacted_text(text) == text


def inside(*networks: str) -> st.SearchStrategy[str]:
    """Every address of some networks."""
    return st.one_of(
        st.ip_addresses(v=4, network=ipaddress.ip_network(network))
        .map(str)
        .filter(lambda address: address not in NOBODYS)
        for network in networks
    )


NOBODYS = ("127.0.0.1", "0.0.0.0", "255.255.255.255")
AROUND = ("{}", "see {}.", "kernel: {} refused", "driver {}", "torch {}", "({}:8080)", "{}/24")
NO_VERSION = inside("192.168.0.0/16", "172.16.0.0/12", "169.254.0.0/16", "64.0.0.0/2",
                    "128.0.0.0/2", "192.0.0.0/3")  # fmt: skip


@given(address=NO_VERSION, around=st.sampled_from([*AROUND, "cuDNN {}", "v{}", "{}-py3", "x=={}"]))
@QUICK
def test_what_no_version_begins_with_goes_from_everywhere(address: str, around: str) -> None:
    """GIVEN an address in every field, under keys of versions and in the list of packages too."""
    clean = redacted(record(text=around.format(address)))

    assert address not in encoded(clean)
    assert redacted(clean) == clean


@given(address=inside("10.0.0.0/8"), around=st.sampled_from(AROUND))
@QUICK
def test_ten_is_a_version_of_a_library_alone(address: str, around: str) -> None:
    facts = {"torch": {"version": address, "nccl": address}, "packages": {"torch": address}}
    library = {"torch": {"cudnn_wheel": address}, "packages": {"nvidia-curand-cu12": address}}

    assert address not in redacted_text(around.format(address))
    assert address not in encoded(redacted(record(environment=facts)))
    assert redacted(record(environment=library)).environment == library


@given(address=inside("0.0.0.0/0"))
@QUICK
def test_any_address_goes_where_no_version_is_told(address: str) -> None:
    assert address not in redacted_text(f"refused by {address}:8080, for {address}")


@pytest.mark.parametrize(
    ("section", "key", "version"),
    [
        ("packages", "nvidia-curand-cu12", "10.3.9.90"),
        ("packages", "anything", "1.2.3.4"),
        ("torch", "cudnn_wheel", "nvidia-cudnn-cu13 9.24.0.43"),
        ("torch", "cudnn_runtime", "9.10.2.21"),
    ],
)
def test_a_version_of_four_numbers_is_no_address(section: str, key: str, version: str) -> None:
    facts = {section: {key: version}}

    assert redacted(record(environment=facts)).environment == facts


def test_an_address_is_one_even_where_a_version_is_expected() -> None:
    clean = redacted(record(environment={"torch": {"version": "served by 10.0.0.5"}}))

    assert clean.environment["torch"]["version"] == "served by <ip>"
