"""A record tells nobody who ran it and where, and a maintainer still all that matters."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from qwenprof.diagnosis.finding import diagnose
from qwenprof.record.published import writeup
from qwenprof.record.record import StageResult, load
from qwenprof.report.redact import NOUNS, redacted, redacted_and_counted, redacted_text, removed
from tests.report.redaction import HOST, USER, encoded, pretend, record

REAL = sorted((Path(__file__).parents[2] / "reports").glob("*/record.json"))


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)


@dataclass(frozen=True)
class Planted:
    """Text as it may stand in a record, and the part of it that nobody may read."""

    text: str
    private: str


def words(least: int = 6) -> st.SearchStrategy[str]:
    """Letters and numbers that stand nowhere else in the record; without a vowel, no "token"."""
    alphabet = "bcdfghjkmnpqrstvwxzBCDFGHJKLMNPQRSTVWXZ23456789"
    return st.text(alphabet, min_size=least, max_size=least + 10).map(lambda rest: f"Zq7{rest}")


def form(template: str, least: int = 6) -> st.SearchStrategy[Planted]:
    """A template in which `{}` is what nobody may read."""
    return words(least).map(lambda word: Planted(template.format(word), word))


def all_of(templates: list[str], least: int = 6) -> st.SearchStrategy[Planted]:
    return st.sampled_from(templates).flatmap(lambda template: form(template, least))


def itself(strategy: st.SearchStrategy[str]) -> st.SearchStrategy[Planted]:
    return strategy.map(lambda text: Planted(text, text))


HEX = "0123456789abcdef"
OCTET = st.integers(1, 254).map(str)
PAIR = st.text(HEX, min_size=2, max_size=2)
KINDS: dict[str, st.SearchStrategy[Planted]] = {
    "path": all_of(
        [
            "/home/{}",
            "/home/{}/models/x.py",
            "/home/Jane {}/models/x.py",
            "/Users/{} van Doe/x",
            "C:/Users/Jane {}/x",
            "/Users/{}/x",
            "/mnt/{}/data/x.bin",
            "/data/models/{}/x",
            "~{}/x",
            "~/work/{}/x",
            r"C:\Users\{}\x",
            r"D:\work\{}\x.py",
            r"\\{}\share\x",
            "'/data/My {}/x'",
            "/opt/{}/lib/python3.11/site-packages/torch/x.py",
            "file:///srv/{}/x",
            "--out=/srv/{}/x",
        ]
    ),
    "user": all_of(["{}@gpu-17", "{}@example.org", "USER={}", "username: {}"]),
    "host": all_of(
        [
            "alice@{}",
            "ssh {}",
            "ssh -p 22 alice@{}",
            "HOSTNAME={}",
            "hostname: {}",
            "{}:/export/x",
            "node {}.example.org",
            "http://{}:8000/x",
            "{}.cluster.internal",
            "connect to {}.hpc.acme.edu<29500>",
            "{}.acme.net:29500",
            "{}.hpc.acme.edu",
        ]
    ),
    "own host": st.sampled_from([f"on {HOST}", f"{HOST}-eth0", f"{HOST}.acme.example"]).map(
        lambda text: Planted(text, HOST)
    ),
    "own user": st.sampled_from(
        [f"/scratch/{USER}", f"{USER}@x", f"~{USER}", f"user {USER} not", f"{USER}_x.py"]
    ).map(lambda text: Planted(text, USER)),
    "ipv4": itself(st.tuples(st.integers(40, 254).map(str), OCTET, OCTET, OCTET).map(".".join)),
    "ipv6": itself(st.lists(st.text(HEX, min_size=4, max_size=4), min_size=8, max_size=8)
                   .map(":".join)),
    "ipv6, shortened": itself(PAIR.map(lambda pair: f"2001:db8::{pair}7")),
    "mac": itself(st.tuples(st.sampled_from(":-"), st.lists(PAIR, min_size=6, max_size=6))
                  .map(lambda parts: parts[0].join(parts[1]))),
    "uuid": itself(st.tuples(st.sampled_from(["", "GPU-", "MIG-"]), st.uuids(version=4))
                   .map(lambda parts: f"{parts[0]}{parts[1]}")),
    "uuid without dashes": st.uuids(version=4).map(
        lambda uuid: Planted(f"UUID {uuid.hex}", uuid.hex)
    ),
    "mac without colons": st.text(HEX, min_size=11, max_size=11).map(
        lambda rest: Planted(f"HWaddr f{rest}", rest)
    ),
    "serial without a sign": st.text("0123456789", min_size=9, max_size=14).map(
        lambda digits: Planted(f"Serial {digits}", digits)
    ),
    "serial": all_of(["serial: {}", "Serial Number  : {}", "serial number {}", "S/N {}"]),
    "token": all_of(
        [
            "hf_{}", "ghp_{}", "gho_{}", "github_pat_{}", "sk-{}", "sk-proj-{}", "AIza{}",
            "xoxb-{}", "eyJ{}.e30.x", "glpat-{}", "npm_{}", "pypi-{}", "Bearer {}",
            "nvapi-{}", "gsk_{}", "r8_{}", "SG.{}.x1234567", "hf_oauth_{}",
            "https://discord.com/api/webhooks/1/{}", "wandb login {}",
        ],
        least=24,
    ),
    "aws": st.text("ABCDEFGHIJKLMNOP234567", min_size=16, max_size=16).map(
        lambda rest: Planted(f"AKIA{rest}", rest)
    ),
    "secret": all_of(
        [
            "HF_TOKEN={}", "WANDB_API_KEY={}", "--api-key {}", "--token={}", "password: {}",
            '{{"api_key": "{}"}}', "{{'client_secret': 'a b {}'}}", "DB_PASSWORD='{}'",
            "GOOGLE_APPLICATION_CREDENTIALS={}", "https://alice:{}@example.org/x",
            "https://example.org/x?a=1&token={}", "https://example.org/x?X-Amz-Signature={}",
            "https://example.org/x?sig={}", "Authorization: Basic {}",
            "Cookie: a=x; sid={}", "Set-Cookie: a=x; b=y; sid={}", "HF_HUB_TOKEN {}",
            "AWS_SECRET {}", "password {}", "sshpass -p {}", "https%3A%2F%2Fuser%3A{}%40x",
            "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----",
        ]
    ),
}  # fmt: skip
AROUND = st.sampled_from([("", ""), ("see ", " there"), ("(", ")"), ("a, ", ", b"), ("\n", "\n")])


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_nothing_private_comes_through_any_field(kind: str, data: st.DataObject) -> None:
    planted = data.draw(KINDS[kind])
    before, after = data.draw(AROUND)
    text = f"{before}{planted.text}{after}"

    clean = redacted(record(text=text))

    assert planted.private not in encoded(clean)
    assert redacted(clean) == clean
    assert redacted_and_counted(clean)[1] == {}
    assert sum(redacted_and_counted(record(text=text))[1].values()) >= 20, (
        "it stood in so many places"
    )


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("HF_TOKEN", "secret"),
        ("wandb_api_key", "secret"),
        ("password", "secret"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("GOOGLE_APPLICATION_CREDENTIALS", "secret"),
        ("hostname", "host"),
        ("SLURM_JOB_NODELIST", "host"),
        ("username", "user"),
        ("gpu_uuid", "uuid"),
        ("serial_number", "serial"),
        ("mac_address", "mac"),
        ("ip_address", "ip"),
    ],
)
def test_a_key_tells_what_its_value_is(key: str, kind: str) -> None:
    private = "a word of 3 parts"
    given = record(
        environment={"host": {key: private}},
        command=["qwenprof", f"--{key}", private, f"--{key}={private}"],
    )

    clean = redacted(given)

    assert clean.environment["host"] == {key: f"<{kind}>"}
    assert clean.command == ["qwenprof", f"--{key}", f"<{kind}>", f"--{key}=<{kind}>"]
    assert redacted_and_counted(given)[1] == {kind: 3}


def test_a_number_stays_unless_it_is_a_serial_number_or_a_secret() -> None:
    facts = {"serial": 1324019012345, "serial_s": 1.5, "tokens": 151, "token": 7, "host": 3.5}

    clean = redacted(record(environment={"x": {**facts, "password": True}}))

    assert clean.environment["x"] == {**facts, "serial": "<serial>", "password": True}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("Qwen/Qwen3-VL-4B-Instruct", "Qwen/Qwen3-VL-4B-Instruct"),
        ("https://huggingface.co/Qwen/Qwen3-VL-4B", "https://huggingface.co/Qwen/Qwen3-VL-4B"),
        ("/data/acme/qwen", "<path>/qwen"),
        ("/data/My acme Models/the qwen", "<path>/the qwen"),
        ("~/acme/qwen", "<path>/qwen"),
        ("acme/models/qwen", "<path>/qwen"),
        ("../acme", "<path>/acme"),
        (r"D:\acme\qwen", r"<path>\qwen"),
    ],
)
def test_a_local_model_is_told_by_its_last_name(source: str, expected: str) -> None:
    given = record(command=["qwenprof", "--model", source, f"--model={source}"],
                   workload={"model": source})  # fmt: skip

    clean = redacted(given)

    assert clean.command == ["qwenprof", "--model", expected, f"--model={expected}"]
    assert clean.workload == {"model": expected}
    assert redacted_and_counted(given)[1] == ({} if source == expected else {"path": 3})


def test_keys_that_become_equal_lose_no_value() -> None:
    facts = {f"/home/{name}/acme/x": number for number, name in enumerate(("ann", "bob", "eve"))}

    clean = redacted(record(environment={"x": facts}))

    assert clean.environment["x"] == {"<path>/x": 0, "<path>/x (2)": 1, "<path>/x (3)": 2}
    assert redacted(clean) == clean


def test_a_date_is_left_alone_and_what_only_claims_to_be_one_is_not() -> None:
    assert redacted(record(created="2026-01-01T10:00:00+00:00")).created.startswith("2026-01-01T10")
    assert redacted(record(created="2026-01-01 10.0.0.5")).created == "2026-01-01 <ip>"


def test_what_was_removed_is_counted_by_kind() -> None:
    reason = "/home/a/x/1 /home/a/x/2 aa:bb:cc:dd:ee:ff HF_TOKEN=abc"
    stage = StageResult(status="failed", reason=reason, duration_s=1.0)
    given = record(stages={"matmul": stage})

    counts = redacted_and_counted(given)[1]

    assert counts == {"path": 2, "mac": 1, "secret": 1}
    assert removed(counts) == "2 local paths, 1 MAC address and 1 secret"
    assert removed({}) == "nothing"
    assert set(counts) <= set(NOUNS)


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.parent.name)
def test_a_real_record_holds_nothing_private_and_stays_as_it_is(path: Path) -> None:
    given = load(path)

    assert redacted(given) == given
    assert redacted_and_counted(given)[1] == {}


def test_the_published_record_stays_as_it_is() -> None:
    assert redacted(writeup()) == writeup()


def test_a_diagnosis_does_not_depend_on_what_is_private() -> None:
    given = load(REAL[0])
    private = msgspec.structs.replace(
        given,
        command=[*given.command, "--out", f"/home/{USER}/acme/out"],
        environment={**given.environment, "private": {"hostname": HOST, "HF_TOKEN": "abc"}},
    )

    clean = redacted(private)

    assert clean != private
    assert diagnose(clean) == diagnose(private) == diagnose(given)


# --- whatever the text is

FRAGMENTS = (
    *("/home/", "alice", "/", "\\", "C:\\Users\\", "~", "@", "://", ":", "=", " ", "\n", '"', "'"),
    *("token", "password", "--api-key", "Bearer", "Authorization", "hf_", "eyJ", "10.0.0.5", "::1"),
    *("aa:bb:cc:dd:ee:ff", "serial", "ssh", "host", "node", "cuDNN", "9.10.2.21", "<path>", "<"),
    *("<secret>", "<home>", "<user>", "site-packages", "..", "$HOME", "-", "|", ",", "(", "?sig"),
    *("Cookie: ", "%3A%2F%2F", "%40", "basic ", ".acme.edu", "192.168.1.7", "HF_TOKEN ", "Serial "),
    *("-----BEGIN PRIVATE KEY", HOST, USER, "fe80::", "GPU-8932f937", "\u202e", "\x00", "é"),
)


@given(parts=st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=4), max_size=24))
@example(parts=["Authorization: "] + ["aa:per token: eyJ/a"] * 12)
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_text_is_cleaned_once_for_all(parts: list[str]) -> None:
    once = redacted_text("".join(parts))

    assert redacted_text(once) == once


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "unit",
    [
        *("a", "/", "/a", "\\a", "C:\\", "a@", "a.", "a-", "1.", "1.2.3.4, ", "1:", "eyJ", "token"),
        *("password='", 'token="', "password = ", "-----BEGIN RSA PRIVATE KEY", "serial: "),
        *(
            "node a-",
            "://a",
            "&sig",
            "'/a",
            "<path>",
            "/home/",
            "aa:",
            "ssh -p 1 ",
            "cudnn 1.2.3.4",
            "Cookie: ",
            "'cookie:",
            "%3A%2F%2Fa",
            "/home/a b ",
            "basic aaaaaa",
            "A_KEY a1",
            "connect to a.",
            "a.com",
        ),
    ],
)
def test_hostile_text_takes_linear_time(unit: str) -> None:
    text = unit * (200_000 // len(unit)) + "!"

    assert redacted_text(text).count("!") <= 1


def test_a_record_of_strange_texts_is_no_error() -> None:
    chance = random.Random(0)
    make: Callable[[], str] = lambda: "".join(chance.choices(FRAGMENTS, k=9))  # noqa: E731

    for _ in range(20):
        clean = redacted(record(text=make()))
        assert redacted(clean) == clean
