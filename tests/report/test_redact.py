"""A ticket tells nobody who ran it and where, and a maintainer still all that matters."""

from __future__ import annotations

import getpass
import platform
import random
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from qwenprof.diagnosis.finding import diagnose
from qwenprof.record.published import writeup
from qwenprof.record.record import Record, Series, StageResult, Tool, load
from qwenprof.report.markdown import escaped
from qwenprof.report.redact import NOUNS, redacted, redacted_and_counted, redacted_text, removed

REAL = sorted((Path(__file__).parents[2] / "reports").glob("*/record.json"))
HOST = "zqbox17"
USER = "zqalice"


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine and a user of known names, whoever runs the tests."""
    monkeypatch.setattr(socket, "gethostname", lambda: f"{HOST}.acme.example")
    monkeypatch.setattr(platform, "node", lambda: HOST)
    monkeypatch.setattr(getpass, "getuser", lambda: USER)
    for name in ("HOSTNAME", "COMPUTERNAME", "SLURMD_NODENAME", "SUDO_USER", "USERPROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("USER", "LOGNAME", "USERNAME"):
        monkeypatch.setenv(name, USER)
    monkeypatch.setenv("HOME", f"/data/people/{USER}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # homes and local paths
        ("/home/alice", "<home>"),
        ("cd /home/alice/: no", "cd <home>/: no"),
        ("/root", "<home>"),
        ("in /root/.cache/hub", "in <path>/hub"),
        ("/home/alice/acme/x.py:12", "<path>/x.py:12"),
        ("/Users/bob/acme/x (line 3)", "<path>/x (line 3)"),
        ("~bob/acme/x and ~/x and ~/acme/x", "<path>/x and ~/x and <path>/x"),
        (r"C:\Users\carol\acme\x.py", r"<path>\x.py"),
        (r"C:\\Users\\carol\\acme\\x.py", r"<path>\x.py"),
        (r"'C:\Users\Alice Smith'", "'<home>'"),
        ("C:/Users/carol/x.py", "<path>/x.py"),
        (r"\\filer\share\acme\x.bin", r"<path>\x.bin"),
        ("'/data/My Models/x'", "'<path>/x'"),
        ("PYTHONPATH=/data/a:/data/acme/b", "PYTHONPATH=<path>/a:<path>/b"),
        ("-I/opt/acme/include", "-I<path>/include"),
        ("../../acme/x ./x .../models/x", "<path>/x ./x .../models/x"),
        ("file:///srv/acme/x.html", "file:<path>/x.html"),
        (
            'File "/opt/acme/lib/python3.11/site-packages/torch/nn/modules/conv.py", line 7',
            'File "<path>/site-packages/torch/nn/modules/conv.py", line 7',
        ),
        ("/opt/x/dist-packages/../../acme/x", "<path>/x"),
        (f"/data/people/{USER} /data/people/{USER}/x", "<home> <home>/x"),
        # the user and the host that this process runs as
        (f"runs/{USER}-3/x by {USER}", f"runs/<user>-3/x by {USER}"),
        (f"~{USER} {USER}@{HOST} {USER}@3.1", "~<user> <user>@<host> <user>@3.1"),
        (f"on {HOST}, {HOST.upper()}: {HOST}.acme.example", "on <host>, <host>: <host>"),
        # other hosts and users
        ("alice@gpu-17 alice@example.com", "<user>@<host> <user>@<host>"),
        ("root@10.0.0.5:/data/acme/x", "<user>@<ip>:<path>/x"),
        ("ssh gpubox; ssh -p 22 dgx01", "ssh <host>; ssh -p 22 <host>"),
        ("filer01:/export/acme/x", "<host>:<path>/x"),
        ("node dgx1.acme.example, host gpu-17", "node <host>, host <host>"),
        ("hostname=foo HOSTNAME: bar", "hostname=<host> HOSTNAME: <host>"),
        ("--host baz, 'host': 'qux', host=quux", "--host <host>, 'host': '<host>', host=<host>"),
        ("{'user': 'alice'}; logged in as: bob", "{'user': '<user>'}; logged in as: <user>"),
        ("http://gpubox:8000/v1 n7.acme.internal", "http://<host>:8000/v1 <host>"),
        ("ip-10-0-3-44.ec2.internal ip-10-0-3-44:", "<host> <host>:"),
        ("host: gpu3", "host: <host>"),
        ("USER=alice user=bob", "USER=<user> user=<user>"),
        # addresses
        ("10.0.0.5 192.168.1.17:8080", "<ip> <ip>:8080"),
        ("cuda:0 10.0.0.5, cuDNN at 10.0.0.5", "cuda:0 <ip>, cuDNN at <ip>"),
        ("fe80::1ff:fe23%eth0 [2001:db8::2]:80", "<ip> [<ip>]:80"),
        ("2001:db8:1:2:3:4:5:6: refused", "<ip>: refused"),
        ("aa:bb:cc:dd:ee:ff AA-BB-CC-DD-EE-FF 0123.4567.89ab", "<mac> <mac> <mac>"),
        ("GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", "<uuid>"),
        ("MIG-GPU-8932f937-d72c-4106-c12f-20bd9faed9f6/1/0 GPU-8932f937", "<uuid> <uuid>"),
        ("guid: 0x0002c903000abcde", "guid: <uuid>"),
        ("Serial Number      : 1324019012345", "Serial Number      : <serial>"),
        ("S/N ABC12345, serial number ABC12345.", "S/N <serial>, serial number <serial>."),
        # secrets
        ("HF_TOKEN=abc --api-key abc", "HF_TOKEN=<secret> --api-key <secret>"),
        ("--token=abc password: abc", "--token=<secret> password: <secret>"),
        ('{"api_key": "a b", "x": 1}', '{"api_key": "<secret>", "x": 1}'),
        ("{'token': 'a b', 'x': 1}", "{'token': '<secret>', 'x': 1}"),
        (r"{\"api_key\": \"a b\"}", r"{\"api_key\": \"<secret>\"}"),
        ("Authorization: Basic dXNlcjpw", "Authorization: Basic <secret>"),
        ("-H 'Authorization: Bearer abcdef12'", "-H 'Authorization: Bearer <secret>'"),
        ("http://user:pa$$@proxy.example:3128/", "http://<secret>@proxy.example:3128/"),
        ("https://x.y/a?X-Amz-Signature=ab&n=1", "https://x.y/a?X-Amz-Signature=<secret>&n=1"),
        ("https://x.y/a?n=1&token=c#top", "https://x.y/a?n=1&token=<secret>#top"),
        ("curl -u bob:hunter2 x", "curl -u <secret> x"),
        ("bearer abcdef12", "bearer <secret>"),
        ("login(key='0123456789abcdef0123')", "login(key='<secret>')"),
        ("ssh-ed25519 AAAAC3Nza+/= x", "<secret> x"),
        ("https://hooks.slack.com/services/T0/B0/x1", "https://hooks.slack.com/services/<secret>"),
        ("hf_" + "aB3" * 11, "<secret>"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.a-b_c", "<secret>"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMII\n-----END RSA PRIVATE KEY----- x", "<secret> x"),
        ("-----BEGIN PRIVATE KEY-----\nMII, and no end", "<secret>"),
    ],
)  # fmt: skip
def test_what_tells_who_and_where_is_gone(text: str, expected: str) -> None:
    assert redacted_text(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "model.visual.blocks.3.attn.qkv",
        "gemm/bf16/1024",
        "fix (view)/bf16/760/backward/first_call",
        "sdpa, forced on every block/batch=1/first_call",
        "2.9.0+cu128",
        "nvidia-cudnn-cu12 9.10.2.21",
        "nvidia-curand-cu12==10.3.9.90",
        "nvidia_cudnn_cu12-9.10.2.21-py3-none-manylinux_2_27_x86_64.whl",
        "cuDNN 9.10.2.21, 9.13.0.5 and 9.15.1.9",
        "| nvidia-cusolver-cu12 | 11.7.3.90 |",
        "runtime cuDNN is 9.10.2.21; version: 8.9.7.29",
        "Linux 5.15.167.4-microsoft-standard-WSL2",
        "127.0.0.1 0.0.0.0 ::1 http://localhost:8000",
        "5c4886908584029761b579af026dcfb627c84070",
        "NVIDIA GeForce RTX 5090",
        "Intel(R) Xeon(R) Processor @ 2.80GHz",
        "void at::native::vol2col_kernel<c10::BFloat16>(long, c10::BFloat16 const*, int)",
        "cutlass_80_tensorop_bf16_s16816gemm_bf16_128x128_32x5_nn_align8",
        "c10::add aten::slow_conv_dilated3d x[1::2] 0000:01:00.0",
        "CUDA_LAUNCH_BLOCKING=1 PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True",
        "https://github.com/huggingface/transformers/issues/45750#issuecomment-1",
        "https://github.com/pytorch/pytorch/blob/v2.9.0/aten/src/ATen/native/Convolution.cpp#L400",
        "git@github.com:huggingface/transformers.git",
        "actions/checkout@v4 transformers@main",
        "2026-11-24T13:45:17+00:00 13:45:17 2026-11-24-13-45-17",
        "Qwen/Qwen3-VL-4B-Instruct",
        "site-packages/transformers/models/qwen3_vl/modeling_qwen3_vl.py",
        "/usr/lib/x86_64-linux-gnu/libcuda.so.1 /proc/cpuinfo /dev/nvidia0",
        "max_new_tokens=128 --max-new-tokens 128 tokens: 151 image_token_id=151655",
        "self.image_token_id = (",
        'image_token="<|image_pad|>" token=None 3 ms per token: 3.2 ms',
        'Unexpected key(s) in state_dict: "visual.x"; key=query; KeyError: 0',
        "forward pass: 3 ms; forward/backward; a / b; 1/2; N/A; TFLOP /s",
        "on host enqueue, host memory; host: 3.2 ms; node conv3d; node model.visual.merger",
        "hf_hub_download hf_model_config threading.local()",
        "serial_s: 12345.6, ssh key, ~5 ms",
    ],
)
def test_what_a_maintainer_needs_stays(text: str) -> None:
    assert redacted_text(text) == text


def test_names_that_anybody_uses_stay_where_they_are_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "vision")
    monkeypatch.setattr(platform, "node", lambda: "localhost")
    monkeypatch.setattr(getpass, "getuser", lambda: "root")
    monkeypatch.setenv("USER", "runner")

    told = redacted_text("the vision tower, root/x, runner/x; /home/runner/x/y; root@vision-7")

    assert told == "the vision tower, root/x, runner/x; <path>/y; <user>@<host>"


def test_a_user_without_a_name_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> str:
        raise KeyError("uid not found")

    monkeypatch.setattr(getpass, "getuser", unknown)

    assert redacted_text("/home/alice/x/y") == "<path>/y"


def test_a_secret_of_this_process_goes_wherever_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACME_API_KEY", "zq-no-known-form")

    assert redacted_text("error 401 for zq-no-known-form!") == "error 401 for <secret>!"


def test_marks_can_be_read_on_a_page() -> None:
    marks = " ".join(f"<{kind}>" for kind in ("home", *NOUNS))

    html = MarkdownIt("commonmark").render(escaped(marks))

    assert marks.replace("<", "&lt;").replace(">", "&gt;") in html


# --- records


def record(*, text: str = "x", environment: dict[str, Any] | None = None, **parts: Any) -> Record:
    """A record in which every string is `text`, but where a part says something else."""
    keys = iter(range(10_000))

    def key() -> str:
        return f"{text} {next(keys)}"

    stages = {
        key(): StageResult(
            status="ok",
            reason=text,
            duration_s=1.0,
            series={key(): Series(unit=text, values=[1.0], stop_reason=text, flags=[text, text])},
            tables={key(): [{key(): text, "path": text, "n": 3, "share": 0.5, "ok": True}]},
        )
    }
    whole: dict[str, Any] = {
        "tool": Tool(name=text, version=text),
        "created": text,
        "command": ["qwenprof", text, "--model", text, f"--model={text}", f"--dtype={text}"],
        "environment": environment or {key(): {key(): text, "name": text, "driver": text}},
        "workload": {key(): text, "model": text, "summary": text},
        "stages": stages,
    }
    return Record(**whole | parts)


def encoded(given: Record) -> str:
    return msgspec.json.encode(given).decode()


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
        ]
    ),
    "own host": st.sampled_from([f"on {HOST}", f"{HOST}-eth0", f"{HOST}.acme.example"]).map(
        lambda text: Planted(text, HOST)
    ),
    "own user": st.sampled_from([f"/scratch/{USER}", f"{USER}@x", f"x/{USER}/y", f"~{USER}"]).map(
        lambda text: Planted(text, USER)
    ),
    "ipv4": itself(st.tuples(st.integers(11, 126).map(str), OCTET, OCTET, OCTET).map(".".join)),
    "ipv6": itself(st.lists(st.text(HEX, min_size=4, max_size=4), min_size=8, max_size=8)
                   .map(":".join)),
    "ipv6, shortened": itself(PAIR.map(lambda pair: f"2001:db8::{pair}7")),
    "mac": itself(st.tuples(st.sampled_from(":-"), st.lists(PAIR, min_size=6, max_size=6))
                  .map(lambda parts: parts[0].join(parts[1]))),
    "uuid": itself(st.tuples(st.sampled_from(["", "GPU-", "MIG-"]), st.uuids(version=4))
                   .map(lambda parts: f"{parts[0]}{parts[1]}")),
    "serial": all_of(["serial: {}", "Serial Number  : {}", "serial number {}", "S/N {}"]),
    "token": all_of(
        [
            "hf_{}", "ghp_{}", "gho_{}", "github_pat_{}", "sk-{}", "sk-proj-{}", "AIza{}",
            "xoxb-{}", "eyJ{}.e30.x", "glpat-{}", "npm_{}", "pypi-{}", "Bearer {}",
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
