"""What may be secret is masked: by its name, by its shape, or because the environment holds it under such a name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from replicate import masking
from replicate.masking import is_secret_name, mask, mask_arguments, mask_text, mask_value


@pytest.mark.parametrize(
    "name",
    [
        "token",
        "hf_token",
        "HF_TOKEN",
        "hfToken",
        "wandb-api-key",
        "apiKey",
        "api_key",
        "apikey",
        "password",
        "db.password",
        "passwd",
        "client_secret",
        "aws_access_key",
        "accessKey",
        "private_key",
        "credentials",
        "credential",
        "--token",
    ],
)
def test_names_that_mean_secrets(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize("name", ["tokens", "tokenizer", "max_tokens", "key", "keys", "secretary", "lr"])
def test_names_that_do_not_mean_secrets(name: str) -> None:
    assert not is_secret_name(name)


def test_what_a_secret_name_holds_is_masked_at_every_depth() -> None:
    values = {
        "lr": 0.1,
        "token": "abc",
        "nested": {"api_key": "abc", "list": [{"password": ["a", "b"]}]},
        "secret": {"a": "b"},
    }
    assert mask(values) == {
        "lr": 0.1,
        "token": "***",
        "nested": {"api_key": "***", "list": [{"password": "***"}]},
        "secret": "***",
    }


@pytest.mark.parametrize("value", [None, "", True, False])
def test_what_cannot_be_a_secret_is_shown(value: Any) -> None:
    assert mask({"token": value}) == {"token": value}


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["--token", "abc", "--lr", "1"], ["--token", "***", "--lr", "1"]),
        (["--token=abc", "--lr=1"], ["--token=***", "--lr=1"]),
        (["token=abc", "lr=1"], ["token=***", "lr=1"]),
        (["--hf-token", "--flag"], ["--hf-token", "--flag"]),
        (["--password", "-abc"], ["--password", "***"]),
        (["token", "abc"], ["token", "abc"]),
        (["+model.api_key=abc"], ["+model.api_key=***"]),
        (["--api-key", "a", "b"], ["--api-key", "***", "b"]),
    ],
)
def test_the_values_of_secret_options_are_masked(arguments: list[str], shown: list[str]) -> None:
    assert mask_arguments(arguments) == shown


# -- by shape --------------------------------------------------------------------------------------------------------

TOKENS = [
    "AKIAIOSFODNN7EXAMPLE",
    "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
    "github_pat_11ABCDEFG0abcdefghijkl_mnopqrstuvwxyz",
    "glpat-abcDEF123456ghiJKL78",
    "hf_abcdefghijklmnopqrstuvwxyzABCDEF",
    "sk-proj-abc123DEF456ghi789JKL012",
    "sk-ant-api03-abcdefghijkl-0123",
    "xoxb-123456789012-abcdefABCDEF",
    "AIzaSyA1234567890abcdefghijklmnopqrstuv",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N",
    "pypi-AgEIcHlwaS5vcmcCJDU0ZTQ2ZTQ2LTQ2NDYtNDY0Ni00",
    "npm_abcdefghijklmnopqrstuvwxyz0123456789",
    "sk_live_abcdefghij1234",
]


@pytest.mark.parametrize("token", TOKENS)
@pytest.mark.parametrize("text", ["{}", "a {} b", "'{}'", "x={}", "https://host/{}/x", "lr,{}"])
def test_well_known_tokens_are_masked_wherever_they_stand(token: str, text: str) -> None:
    for masked in (mask_value(text.format(token)), mask_text(text.format(token))):
        assert masked == text.format("***")


@pytest.mark.parametrize(
    "text",
    [
        "sk-learn-very-long-kebab-name-here",
        "task-0123456789-abcdefghijklmnop",
        "hf_transformers_checkpoint_name",
        "d02b7aac6912e7710c838347ae178b4a16c7e42f",
        "basic understanding of it",
        "git@github.com:team/vision.git",
        "ssh://git@host/team/vision",
        "http://host:8080/path@v2",
        "s3://bucket/key=value/x",
        "max_tokens=512",
        "f(token=self.token, n_tokens=5)",
        "token = next(tokens)",
        "def f(token: str, password: Optional[str] = None) -> None:",
        'secret = ""',
        "password=None",
    ],
)
def test_what_only_looks_like_a_secret_stays(text: str) -> None:
    assert (mask_value(text), mask_text(text)) == (text, text)


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("https://user:pass@host/x", "https://***@host/x"),
        ("https://user:p@ss@host", "https://***@host"),
        ("https://token@host/x", "https://***@host/x"),
        ("postgres://u:p/w@host/db", "postgres://***@host/db"),
        ("redis://:pw@host:6379/0", "redis://***@host:6379/0"),
        ("see https://u:p@a/ and https://v:q@b/.", "see https://***@a/ and https://***@b/."),
        ("https://b.example/k?X-Amz-Signature=abc&x=1", "https://b.example/k?X-Amz-Signature=***&x=1"),
        ("https://b.example/k?sv=1&sig=abc%3D", "https://b.example/k?sv=1&sig=***"),
        ("https://hooks.slack.com/services/T00/B00/XXXX", "https://hooks.slack.com/services/***"),
        ("Authorization: Bearer abcdef0123456789", "Authorization: Bearer ***"),
        ("host=db password=abc user=me", "host=db password=*** user=me"),
        ('{"api_key": "abc", "lr": 1}', '{"api_key": "***", "lr": 1}'),
        ("train.py --hf-token abc --lr 1", "train.py --hf-token *** --lr 1"),
    ],
)
def test_secrets_inside_of_values_are_masked(text: str, masked: str) -> None:
    assert mask_value(text) == mask_text(text) == masked
    assert mask({"note": text, "list": [text]}) == {"note": masked, "list": [masked]}
    assert mask_arguments([text]) == [masked]


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("password: hunter2", "password: ***"),
        ("DB_PASSWORD = hunter2", "DB_PASSWORD = ***"),
        ("api_key = 'abc'", "api_key = '***'"),
        ('token: str = "abc"', 'token: str = "***"'),
        ('os.environ["API_KEY"] = "abc"', 'os.environ["API_KEY"] = "***"'),
        ("error: password=abc", "error: password=***"),
        ("tokens: password=abc", "tokens: password=***"),
        ("export PGPASSWORD=abc", "export PGPASSWORD=***"),
        ("a=1\nsecret=b\nc=2", "a=1\nsecret=***\nc=2"),
    ],
)
def test_in_messages_and_code_what_is_assigned_to_a_secret_name_is_masked(text: str, masked: str) -> None:
    assert mask_text(text) == masked


KEY = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nIBAAKC==\n-----END RSA PRIVATE KEY-----\n"


@pytest.mark.parametrize("sign", ["", "+", "-", " "])
def test_private_keys_are_masked_line_by_line(sign: str) -> None:
    lines = ["before", *KEY.splitlines(), "after"]
    masked = mask_text("\n".join(sign + line for line in lines)).split("\n")
    kept = sign
    assert masked == [sign + lines[0], sign + lines[1], f"{kept}***", f"{kept}***", sign + lines[4], sign + lines[5]]


def test_a_private_key_without_an_end_is_masked_as_long_as_it_looks_like_one() -> None:
    assert mask_text("-----BEGIN PRIVATE KEY-----\nMIIEow\nthat was it.") == (
        "-----BEGIN PRIVATE KEY-----\n***\nthat was it."
    )
    assert mask_value(KEY.replace("\n", "\\n")) == (
        "-----BEGIN RSA PRIVATE KEY-----***-----END RSA PRIVATE KEY-----\\n"
    )


def test_what_a_secret_variable_holds_is_masked_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "correct-horse-battery")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", "/run/identity/token")
    monkeypatch.setenv("SHORT_TOKEN", "abc")
    monkeypatch.setenv("GREETING", "a good day")
    text = "correct-horse-battery in /run/identity/token, abc, a good day"
    shown = "*** in /run/identity/token, abc, a good day"
    assert mask_value(text) == mask_text(text) == shown
    assert mask({"a": [text]}) == {"a": [shown]}
    assert mask_arguments(["x", "correct-horse-battery"]) == ["x", "***"]


@pytest.mark.parametrize(
    "piece", ["a", "a.b-", "x=1,", "a://b:c", "a://", "sk-", "token ", "token='", "eyJabcdefgh.", "basic a"]
)
def test_long_lines_are_masked_by_bounded_work(piece: str) -> None:
    text = piece * (200_000 // len(piece))
    with_secret = f"{text} password=abc"
    assert mask_text(with_secret).endswith("***")


@pytest.mark.parametrize("mask_it", [mask_text, mask_value])
def test_many_names_one_behind_the_other_are_all_looked_at(mask_it: Callable[[str], str]) -> None:
    assert mask_it("monkey=" * 3_000 + "token=abc") == "monkey=" * 3_000 + "token=***"
    assert mask_it("--monkey=" + "monkey=" * 3_000 + "token=abc").endswith("monkey=token=***")


def test_values_of_other_names_are_not_matched_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    class Counted:
        tried = 0

        def match(self, text: str, at: int) -> None:
            self.tried += 1

    counted = Counted()
    monkeypatch.setattr(masking, "_LOOSE", counted)
    mask_text("monkey:" * 1_000 + "token: abc")
    assert counted.tried == 1


@pytest.mark.parametrize(
    "text",
    [
        '"password = \\"hunter22\\"\\n",',  # a notebook's line of code
        '"os.environ[\\"API_KEY\\"] = \\"hunter22\\"\\n",',
        '{"args": "{\\"token\\": \\"hunter22\\"}"}',
        "token=\\'hunter22\\'",
        "password = '''hunter22'''",
        'password = r"""hunter22"""',
        'password = "a\\"hunter22"',
    ],
)
def test_quotes_in_quotes_are_masked_whole(text: str) -> None:
    assert "hunter22" not in mask_text(text)
