"""The console command: every name leads to a command, and our errors become one line."""

import pytest

from registry.errors import RegistryError
from router import cli


@pytest.mark.parametrize("name", ["catalog", "key", "up"])
def test_every_name_leads_to_a_command(name):
    command = cli.LazyGroup().get_command(None, name)
    assert command is not None
    assert command.help


def test_an_error_of_ours_is_one_line_and_exit_code_1(capsys, monkeypatch):
    def fail(**_):
        raise RegistryError("the catalogue is on fire")

    monkeypatch.setattr(cli.marquee, "main", fail)
    assert cli.main([]) == 1
    assert capsys.readouterr().err == "marquee: the catalogue is on fire\n"


def test_a_bug_is_not_hidden(monkeypatch):
    def fail(**_):
        raise ZeroDivisionError

    monkeypatch.setattr(cli.marquee, "main", fail)
    with pytest.raises(ZeroDivisionError):
        cli.main([])


def test_an_unknown_command_is_named(capsys):
    assert cli.main(["fly"]) == 2
    assert "fly" in capsys.readouterr().err


def test_a_mistyped_command_is_guessed(capsys):
    assert cli.main(["simulat"]) == 2
    assert "No such command 'simulat'. Did you mean 'simulate'?" in capsys.readouterr().err


def test_the_list_of_commands_cuts_no_sentence(capsys):
    assert cli.main(["--help"]) == 0
    assert cli.main(["publish", "--help"]) == 0
    assert cli.main(["catalog", "--help"]) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("Usage")]
    assert [line for line in told if "..." in line] == []


@pytest.mark.parametrize(
    "words", [("key", "list"), ("catalog", "export"), ("demo-data",), ("why", "01a2"), ("catalog", "plan")]
)
def test_a_mistyped_home_does_not_become_one(capsys, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MARQUEE_TEST_CLUSTER", raising=False)
    (tmp_path / "catalog.yaml").write_text("models: {}")
    assert cli.main([*words, "--home", "typo"]) == 1
    assert capsys.readouterr().err == (
        f"Error: no database in {tmp_path}/typo: name the home of `marquee up` (--home, MARQUEE_HOME),"
        " or MARQUEE_DATABASE_URL\n"
    )
    assert not (tmp_path / "typo").exists()


@pytest.mark.parametrize(
    ("words", "module", "extra"),
    [
        (("key", "list"), "sqlalchemy", "server"),
        (("load", "x", "--prompt", "x"), "torch", "host"),
        (("up",), "psycopg", "all"),
    ],
)
def test_where_only_a_part_is_installed_a_command_says_what_it_needs(
    capsys, monkeypatch, words, module, extra
):
    def fail(**_):
        raise ModuleNotFoundError(f"No module named {module!r}", name=f"{module}.orm")

    monkeypatch.setattr(cli.marquee, "main", fail)
    assert cli.main(words) == 1
    assert capsys.readouterr().err == (
        f"marquee: this command needs {module}.orm, which is not installed here: pip install 'marquee[{extra}]'\n"
    )


def test_a_module_of_ours_that_is_missing_is_a_bug(monkeypatch):
    def fail(**_):
        raise ModuleNotFoundError("No module named 'router.nix'", name="router.nix")

    monkeypatch.setattr(cli.marquee, "main", fail)
    with pytest.raises(ModuleNotFoundError):
        cli.main([])


@pytest.mark.parametrize(
    "words", [("host",), ("why", "01a2"), ("top", "--once"), ("publish", "me"), ("requests",), ("usage",)]
)
@pytest.mark.parametrize(
    ("url", "key", "said"),
    [
        (
            "models.example.com",
            "mq_1",
            "'models.example.com' is no gateway's address, like https://models.example.com",
        ),
        ("http://[::1", "mq_1", "'http://[::1' is no gateway's address, like https://models.example.com"),
        (
            "http://a:70000",
            "mq_1",
            "'http://a:70000' is no gateway's address, like https://models.example.com",
        ),
        ("http://127.0.0.1:9", "schlüssel", "the key is none: it is one word that begins with mq_"),
        ("http://127.0.0.1:9", "mq 1", "the key is none: it is one word that begins with mq_"),
    ],
)
def test_what_is_no_address_or_no_key_is_said_at_once(capsys, monkeypatch, words, url, key, said):
    monkeypatch.delenv("MARQUEE_TEST_CLUSTER", raising=False)
    command, *rest = words
    assert cli.main([command, "--url", url, "--key", key, *rest]) > 0
    assert said in capsys.readouterr().err


def test_help_of_what_talks_to_a_server_needs_none(capsys, tmp_path):
    assert cli.main(["publish", "--home", str(tmp_path), "release", "--help"]) == 0
    assert "SLUG SHARES" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ([], "MARQUEE_URL and MARQUEE_KEY"),
        (["--url", "http://127.0.0.1:9"], "MARQUEE_KEY or --key"),
        (["--key", "mq_1"], "MARQUEE_URL or --url"),
    ],
)
def test_without_a_server_a_lab_is_told_what_to_set(capsys, tmp_path, given, missing):
    assert cli.main(["publish", "--home", str(tmp_path), *given, "me"]) == 1
    assert (
        capsys.readouterr().err
        == f"Error: whose catalogue? No server runs in {tmp_path} (--home): set {missing}\n"
    )
