"""Every mistake in satellite.toml is named with its file, line and key, and with what to do."""

import pytest

from onboard.config import load_config, parse_address, read_key, read_link_key
from onboard.errors import ConfigError
from tests.fakes.updates import FakeGround


@pytest.fixture
def path(tmp_path):
    return FakeGround().write_kit(tmp_path)


def change(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return path


def complaint(path) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    return caught.value


def test_the_kit_s_file_is_read_and_paths_are_relative_to_it(path):
    config = load_config(path)
    assert config.satellite.name == "SAT-1"
    assert config.satellite.state_dir == path.parent / "state"
    assert config.link.listen == ("127.0.0.1", 7003)
    assert config.install.attempts_max == 3
    assert config.warnings == ()


def test_a_bad_value_is_named_with_file_line_and_key(path):
    error = complaint(change(path, 'listen = "127.0.0.1:7003"', 'listen = "7003"'))
    assert str(error).startswith(f"{path}:6: link.listen: ")
    assert (error.key, error.line) == ("link.listen", 6)
    assert "127.0.0.1:7003" in error.hint


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ('name = "SAT-1"', 'name = "../x"', "satellite.name"),
        ('name = "SAT-1"', "name = 7", "satellite.name"),
        ("command = []", 'command = "engine"', "engine.command"),
        ("command = []", "threads = 0", "engine.threads"),
        ("command = []", 'kind = "magic"', "engine.kind"),
        ('kind = "transformers"', 'kind = "command"', "engine.command"),
        ("[trust]", "[trust]\nclock = 7", "trust.clock"),
        ("[link]", "[link]\nsilent = 1", "link.silent"),
        ("[link]", "[link]\nsync_interval_s = true", "link.sync_interval_s"),
        ("[link]", "[link]\nsync_interval_s = 1e9", "link.sync_interval_s"),
    ],
)
def test_each_kind_of_bad_value_names_its_key(path, old, new, key):
    change(path, old, new) if 'kind = "magic"' not in new else change(path, 'kind = "transformers"', new)
    assert f" {key}: " in str(complaint(path))


def test_a_misspelt_key_is_an_error_with_the_right_word(path):
    error = complaint(change(path, "[endpoint]", "[install]\nprobaton_s = 1\n[endpoint]"))
    assert "install.probaton_s" in str(error)
    assert "probation_s" in error.hint


def test_a_misspelt_key_that_must_be_there_is_named_and_not_the_missing_one(path):
    error = complaint(change(path, "link_key_file", "link_keyfile"))
    assert "link.link_keyfile" in str(error)
    assert "link_key_file" in error.hint


def test_an_unknown_table_is_an_error(path):
    assert "[endpoint]" not in complaint(change(path, "[endpoint]", "[endpiont]")).hint
    assert "endpoint" in complaint(path).hint


def test_a_missing_table_names_the_key_that_is_missing(path):
    assert "satellite.name: is missing" in str(complaint(change(path, "[satellite]", "[sattelite]")))


def test_bad_toml_names_the_line(path):
    assert f"{path}:2: " in str(complaint(change(path, 'name = "SAT-1"', 'name = "SAT-1')))


def test_no_file_says_how_to_get_one(tmp_path):
    assert "--config" in complaint(tmp_path / "none.toml").hint


def test_a_key_that_others_may_read_is_a_warning(path):
    (path.parent / "keys" / "link.key").chmod(0o644)
    (warning,) = load_config(path).warnings
    assert "link.key" in warning
    assert "0644" in warning


def test_a_key_file_is_64_hexadecimal_digits(path):
    assert read_key(path.parent / "keys" / "link.key", what="link key") == FakeGround().link_key
    (path.parent / "keys" / "link.key").write_text("abc\n")
    with pytest.raises(ConfigError, match="64 hexadecimal digits"):
        read_key(path.parent / "keys" / "link.key", what="link key")


@pytest.mark.parametrize("text", ["", "host", ":1", "host:", "host:x", "host:70000"])
def test_bad_addresses_are_refused(text):
    with pytest.raises(ValueError, match="host:port"):
        parse_address(text)


def test_ipv6_addresses_have_brackets():
    assert parse_address("[::1]:80") == ("::1", 80)


def test_a_link_without_a_key_must_be_asked_for_in_so_many_words_and_is_warned_of(path):
    config = load_config(change(path, 'link_key_file = "keys/link.key"', 'link_key_file = ""'))

    assert config.link.link_key_file is None
    assert read_link_key(config.link) is None
    assert any("CRC only" in warning for warning in config.warnings)


def test_a_link_key_that_is_not_named_at_all_is_an_error(path):
    assert complaint(change(path, 'link_key_file = "keys/link.key"\n', "")).key == "link.link_key_file"
