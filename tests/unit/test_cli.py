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
