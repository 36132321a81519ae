"""What tells who and where is gone from a text; what a maintainer needs stays."""

from __future__ import annotations

import getpass
import platform
import socket

import pytest
from markdown_it import MarkdownIt

from qwenprof.report.markdown import escaped
from qwenprof.report.redact import NOUNS, redacted_text
from tests.report.redaction import HOST, USER, pretend


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)


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
        # a home whose name has blanks
        ("Permission denied: /home/Jane Doe/models/q", "Permission denied: <path>/q"),
        ("/Users/Jane van Doe/x: no", "<path>/x: no"),
        ("cd /home/Jane Doe/: no", "cd <home>/: no"),
        ("/mnt/c/Users/Jane Doe/x C:/Users/Jane Doe/x", "<path>/x <path>/x"),
        ("/home/jane and /data/lib/x", "<home> and <path>/x"),
        ("/home/jane is 3 GB/s, /home/jane. See a/b", "<home> is 3 GB/s, <home>. See a/b"),
        ("/home/jane: no GB/s; /home/jane, no a/b", "<home>: no GB/s; <home>, no a/b"),
        # the user and the host that this process runs as
        (f"runs/{USER}-3/x by {USER}", "runs/<user>-3/x by <user>"),
        (f"~{USER} {USER}@{HOST} {USER}@3.1", "~<user> <user>@<host> <user>@3.1"),
        (f"on {HOST}, {HOST.upper()}: {HOST}.acme.example", "on <host>, <host>: <host>"),
        (f"user {USER} not in sudoers", "user <user> not in sudoers"),
        (f"su: {USER}; {USER}_train.py", "su: <user>; <user>_train.py"),
        (f"by {USER.upper()}, not {USER}s", f"by <user>, not {USER}s"),
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
        ("GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", "<uuid>"),
        ("MIG-GPU-8932f937-d72c-4106-c12f-20bd9faed9f6/1/0 GPU-8932f937", "<uuid> <uuid>"),
        ("guid: 0x0002c903000abcde", "guid: <uuid>"),
        ("Serial Number      : 1324019012345", "Serial Number      : <serial>"),
        ("S/N ABC12345, serial number ABC12345.", "S/N <serial>, serial number <serial>."),
        ("connect to node042.hpc.acme.edu<29500>", "connect to <host><29500>"),
        ("connect to [n42.acme.edu]:29500 (errno", "connect to [<host>]:29500 (errno"),
        ("connecting to acme.de failed", "connecting to <host> failed"),
        ("n42.hpc.acme.it:29500, tcp://n42.acme.net:29500", "<host>:29500, tcp://<host>:29500"),
        ("of n42.hpc.acme.edu and gpu.cs.acme.ac.uk.", "of <host> and <host>."),
        ("the addresses of (n042, 29500) cannot", "the addresses of (<host>, 29500) cannot"),
        ("jdoe@github.com", "<user>@<host>"),
        ("Serial 0324518123456 serial 7XK2J53", "Serial <serial> serial <serial>"),
        ("machine-id 4c4c4544004a35108052b4c04f", "machine-id <uuid>"),
        ("UUID 550e8400e29b41d4a716446655440000", "UUID <uuid>"),
        ("MAC 0242ac110002, HWaddr 0242AC110002", "MAC <mac>, HWaddr <mac>"),
        ("link/ether: 0242ac11000b ether 0242ac11000b", "link/ether: <mac> ether <mac>"),
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
        "serial 100000 calls, UUID unknown, mac: 549755813888 and 1 MAC 549755813888",
        "model.visual.patch_embed.proj transformers.models.qwen3_vl torch.nn.functional:2100",
        "modeling_qwen3_vl.py:123 conv.cc:42 model.blocks.0.attn.to:12 torch.utils.io:77",
        "connected to model.visual.merger, from torchvision.io to torch.onnx",
        "https://pytorch.org:443 download.pytorch.org docs.nvidia.com www.apache.org/licenses",
        "https://blog.acme.example.org/a-post huggingface.co:443 api.github.com",
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


@pytest.mark.parametrize(
    ("user", "text", "expected"),
    [
        ("bob", "by bob: ~bob/x, bob@x3", "by bob: <path>/x, <user>@<host>"),
        ("u123456", "by u123456", "by <user>"),
        ("u123", "by u123", "by u123"),
        ("grace", "NVIDIA Grace Hopper; runs/grace-3", "NVIDIA Grace Hopper; runs/<user>-3"),
        ("root", "user root, root_dir", "user root, root_dir"),
        ("ubuntu", "Ubuntu 24.04, ubuntu_run", "Ubuntu 24.04, ubuntu_run"),
    ],
)
def test_a_short_or_an_ordinary_name_goes_only_where_it_is_a_name(
    monkeypatch: pytest.MonkeyPatch, user: str, text: str, expected: str
) -> None:
    monkeypatch.setattr(getpass, "getuser", lambda: user)
    for name in ("USER", "LOGNAME", "USERNAME"):
        monkeypatch.setenv(name, user)

    assert redacted_text(text) == expected


def test_a_user_without_a_name_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> str:
        raise KeyError("uid not found")

    monkeypatch.setattr(getpass, "getuser", unknown)

    assert redacted_text("/home/alice/x/y") == "<path>/y"


def test_marks_can_be_read_on_a_page() -> None:
    marks = " ".join(f"<{kind}>" for kind in ("home", *NOUNS))

    html = MarkdownIt("commonmark").render(escaped(marks))

    assert marks.replace("<", "&lt;").replace(">", "&gt;") in html
