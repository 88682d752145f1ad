"""What counts as a secret, and that it is hidden wherever it is said."""

from __future__ import annotations

import pytest

from ibnorm_megatron.config import Config
from ibnorm_megatron.errors import Problem
from ibnorm_megatron.redaction import hide_secrets, is_secret, secrets_in

_ENVIRON = {"WANDB_API_KEY": "c0ffee+c0ffee/1", "HF_TOKEN": "hf_0123456789", "SHORT_KEY": "abc", "HOME": "/home/somebody"}


@pytest.mark.parametrize(
    "name",
    ["WANDB_API_KEY", "hf_token", "HF_TOKEN", "log.password", "AWS_SECRET_ACCESS_KEY", "apiKey", "DB_PASSWORD_2", "GITHUB_PAT"],
)
def test_names_of_secrets(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize(
    "name",
    ["model.num_key_value_heads", "tokens", "TOKENIZERS_PARALLELISM", "WANDB_IDENTITY_TOKEN_FILE", "PATH", "keyboard", "2"],
)
def test_names_of_others(name: str) -> None:
    assert not is_secret(name)


def test_no_field_of_a_config_is_taken_for_a_secret() -> None:
    rooms = {name: field for name, field in Config.model_fields.items() if name != "plugins"}
    assert not [key for field in rooms.values() for key in field.annotation.model_fields if is_secret(key)]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("it said c0ffee+c0ffee/1.", "it said (hidden)."),
        ("https://x/?k=c0ffee%2Bc0ffee%2F1", "https://x/?k=(hidden)"),
        ("https://user:pass@example.org/data", "https://(hidden)@example.org/data"),
        ("{'token': 'abc', 'steps': 3}", "{'token': (hidden), 'steps': 3}"),
        ("my.password=abc train.steps=3", "my.password=(hidden) train.steps=3"),
        ("abc /home/somebody", "abc /home/somebody"),
    ],
)
def test_secrets_in_a_text(text: str, shown: str) -> None:
    assert hide_secrets(text, _ENVIRON) == shown


def test_secrets_in_nested_values() -> None:
    values = {"a": {"b": ["x", "hf_0123456789"], "token": "abc", "key": ""}, "steps": 3, "c": "https://u:p@host"}
    assert list(secrets_in(values, _ENVIRON)) == ["a.b.1", "a.token", "c"]


def test_no_sentence_shows_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_0123456789")
    said = str(Problem("data.path", "/data/hf_0123456789", "hf_0123456789 is no folder", "take hf_0123456789 out"))
    assert said == "data.path is /data/(hidden): (hidden) is no folder; take (hidden) out."
    assert str(Problem("log.api_key", "'x'", "no", "mend it")) == "log.api_key is (hidden): no; mend it."
