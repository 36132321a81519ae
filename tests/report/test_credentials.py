"""No key, token or password comes through a text; counts of tokens and prose do."""

from __future__ import annotations

import pytest

from qwenprof.report.redact import redacted_text
from tests.report.redaction import pretend


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
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
        # cookies, to the end of the line or of the quotes
        ("Cookie: a=x; sid=s3cr3t", "Cookie: <secret>"),
        ("Set-Cookie: sid=s3cr3t; HttpOnly\nServer: x", "Set-Cookie: <secret>\nServer: x"),
        ("-H 'Cookie: a=x; sid=s3' -v", "-H 'Cookie: <secret>' -v"),
        ('{"cookie": "a=x; sid=s3", "x": 1}', '{"cookie": "<secret>", "x": 1}'),
        ("get(x, cookies={'a': 'x', 'sid': 's3'})", "get(x, cookies=<secret>"),
        ("cookie: None", "cookie: None"),
        # names without a sign, and programs that take a secret
        ("curl: Basic amRvZTpwdw== refused", "curl: Basic <secret> refused"),
        ("HF_HUB_TOKEN hf_short1", "HF_HUB_TOKEN <secret>"),
        ("AWS_SECRET wJalrXUtnFEMI", "AWS_SECRET <secret>"),
        ("machine x login y password hunter2", "machine x login y password <secret>"),
        ("sshpass -p hunter2 x; sshpass -phunter2", "sshpass -p <secret> x; sshpass -p<secret>"),
        ("wandb login " + "0a1b2" * 8, "wandb login <secret>"),
        ("wandb login --relogin " + "0a1b2" * 8, "wandb login --relogin <secret>"),
        ("https%3A%2F%2Fuser%3Apw%40x%2Fy", "https%3A%2F%2F<secret>%40x%2Fy"),
        ("?to=https%253A%252F%252Fu%253Ap%2540x", "?to=https%253A%252F%252F<secret>%2540x"),
        # tokens of services
        ("nvapi-" + "aB3-_" * 12, "<secret>"),
        ("gsk_" + "aB3d" * 13, "<secret>"),
        ("r8_" + "aB3d" * 9, "<secret>"),
        ("dapi" + "0a1b" * 8, "<secret>"),
        ("SG.aB3-_aB3-_.aB3-_aB3-_aB3", "<secret>"),
        ("dop_v1_" + "0a1b" * 16, "<secret>"),
        ("AGE-SECRET-KEY-1" + "Q3Z7" * 14, "<secret>"),
        ("hf_oauth_eyJhbGciOiJFZERTQSJ9.eyJzY29wZSI6WyJv", "<secret>"),
        ("https://discord.com/api/webhooks/12/aB-_3", "https://discord.com/api/webhooks/<secret>"),
    ],
)  # fmt: skip
def test_what_lets_somebody_in_is_gone(text: str, expected: str) -> None:
    assert redacted_text(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "HF_TOKEN is not set; HF_TOKEN and AWS_SECRET; the WANDB_API_KEY environment variable",
        "IMAGE_TOKEN 151655, PAD_TOKEN <|endoftext|>",
        "basic usage, Basic BlockTransformer, basic config=3",
        "password for 3 users, wandb login failed, sshpass is missing",
        "https%3A%2F%2Fexample.org%2Fa%40b https%3A%2F%2Fexample.org%3Fmail%3Da%40b",
        "hf_oauth_redirect_path hf_oauth_expiration_minutes gsk_forward_kernel_of_the_block",
        "a cookie of the session",
    ],
)
def test_what_lets_nobody_in_stays(text: str) -> None:
    assert redacted_text(text) == text


def test_a_secret_of_this_process_goes_wherever_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACME_API_KEY", "zq-no-known-form")

    assert redacted_text("error 401 for zq-no-known-form!") == "error 401 for <secret>!"
