import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from chatstream.errors import SettingsError
from chatstream.settings import MAX_SYSTEM_CHARS, Settings, rate


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.chdir(str(tmp_path))


def test_the_environment_sets_what_the_command_line_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CHATSTREAM_PORT", "1234")
    monkeypatch.setenv("CHATSTREAM_HEARTBEAT", "2")

    settings = Settings.from_environment(port=99)

    assert settings.port == 99
    assert settings.heartbeat == 2


def test_a_wrong_setting_is_named_with_what_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATSTREAM_PORT", "70000")
    monkeypatch.setenv("CHATSTREAM_FSYNC", "sometimes")

    with pytest.raises(SettingsError) as caught:
        Settings.from_environment()

    assert "CHATSTREAM_PORT" in caught.value.message and "65535" in caught.value.message
    assert "CHATSTREAM_FSYNC" in caught.value.message and "'terminal'" in caught.value.message


def test_a_providers_settings_keep_their_owners_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("OPENAI_BASE_URL", "nonsense")

    with pytest.raises(SettingsError, match="OPENAI_BASE_URL"):
        Settings.from_environment()

    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1/")
    settings = Settings.from_environment()
    assert settings.openai_base_url == "http://127.0.0.1:1/v1"
    assert "sk-secret" not in repr(settings)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "chat.example"])
def test_listening_beyond_loopback_without_auth_is_refused(host: str) -> None:
    with pytest.raises(SettingsError, match="--insecure"):
        Settings.from_environment(host=host)

    assert Settings.from_environment(host=host, insecure=True).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_needs_no_leave_and_has_no_limits_unless_set(host: str) -> None:
    assert not Settings.from_environment(host=host).limited("rate_limit_chat")
    assert Settings.from_environment(host=host, rate_limit_chat="1/second").limited(
        "rate_limit_chat"
    )


def test_lists_are_written_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATSTREAM_ALLOWED_HOSTS", "Chat.example, other.example")

    assert Settings.from_environment().allowed_hosts == ("chat.example", "other.example")


def test_a_rate_is_a_count_in_a_time() -> None:
    assert rate("60/minute") == (60, 60)
    assert rate("0") is None
    with pytest.raises(SettingsError, match="RATE_LIMIT_CHAT"):
        Settings.from_environment(rate_limit_chat="often")


def test_a_system_prompt_has_the_limit_that_a_turns_own_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert (
        Settings.from_environment(system_prompt="x" * MAX_SYSTEM_CHARS).system_prompt
        == "x" * MAX_SYSTEM_CHARS
    )
    monkeypatch.setenv("CHATSTREAM_SYSTEM_PROMPT", "x" * (MAX_SYSTEM_CHARS + 1))
    with pytest.raises(SettingsError, match=f"CHATSTREAM_SYSTEM_PROMPT: .* {MAX_SYSTEM_CHARS}"):
        Settings.from_environment()
    monkeypatch.setitem(os.environb, b"CHATSTREAM_SYSTEM_PROMPT", b"\xff")
    with pytest.raises(SettingsError, match="CHATSTREAM_SYSTEM_PROMPT: .*unicode"):
        Settings.from_environment()


def test_the_constructor_reads_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CHATSTREAM_PORT", "1234")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    (tmp_path / ".env").write_text("CHATSTREAM_MAX_TURNS=3\nOTHERS_OWN=1\n")

    pure, read = Settings(data_dir="chats"), Settings.from_environment(data_dir="chats")

    assert (pure.port, pure.max_turns, pure.openai_api_key) == (8000, 500, None)
    assert pure.model_fields_set == {"data_dir"}
    assert (read.port, read.max_turns) == (1234, 3)
    assert read.model_fields_set == {"data_dir", "port", "max_turns", "openai_api_key"}
    assert type(read) is Settings and "sk-secret" not in repr(read)


def test_a_setting_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValidationError, match="date_dir"):
        Settings(date_dir="chats")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="date_dir"):
        Settings.from_environment(date_dir="chats")
