from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from rich.console import Console

from registry.dashboard.live import FleetState, HostState
from router import cli, top

GIB = 1 << 30
SEEN = top.Seen(
    fleet=FleetState(
        at=datetime(2026, 11, 23, tzinfo=UTC),
        pool="local",
        hosts=(
            HostState(
                id="a", name="rack-7", device="cuda:0", running=1, budget_bytes=80 * GIB, used_bytes=40 * GIB
            ),
            HostState(id="b", name="rack-8", device="cuda:0", draining=True),
        ),
        waiting=12,
        running=1,
        warm={"lab/one": 2, "lab/two": 0},
    ),
    ended={"succeeded": 110.0, "failed": 2.0},
)


def shown(before: dict[str, float] | None = None) -> str:
    console = Console(width=120, record=True, file=None, quiet=False, force_terminal=False)
    with console.capture() as captured:
        console.print(top.screen(SEEN, before, 2.0))
    return captured.get()


def test_the_screen_names_hosts_queue_and_warm_models() -> None:
    text = shown()
    for words in ("2 hosts", "12 waiting", "rack-7", "busy", "draining", "40.0 of 80.0 GiB", "lab/one"):
        assert words in text
    assert "lab/two" not in text


def test_rates_are_of_what_ended_in_between() -> None:
    assert "6.0 ended a second" in shown({"succeeded": 98.0, "failed": 2.0})


def test_ends_are_summed_over_doors() -> None:
    text = (
        "# TYPE marquee_requests counter\n"
        'marquee_requests_total{state="failed",door="fal"} 1.0\n'
        'marquee_requests_total{state="failed",door="page"} 2.0\n'
    )
    assert top.ended(text) == {"failed": 3.0}


def test_no_gateway_is_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MARQUEE_TEST_CLUSTER", raising=False)
    assert cli.main(["top", "--home", str(tmp_path)]) == 1
    assert capsys.readouterr().err == (
        f"Error: whose fleet? No server runs in {tmp_path} (--home): set MARQUEE_URL and MARQUEE_KEY\n"
    )


@pytest.mark.timeout(20)  # it went on forever, and printed nothing
def test_a_pipe_gets_one_look_with_whole_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(top, "_looker", lambda *_: lambda: SEEN)
    asked = ["top", "--url", "http://127.0.0.1:9", "--key", "mq_1"]
    plain = CliRunner().invoke(cli.marquee, asked)
    assert (plain.exit_code, "rack-7 cuda:0 busy 1 0 40.0 of 80.0 GiB" in " ".join(plain.output.split())) == (
        0,
        True,
    )
    whole = CliRunner().invoke(cli.marquee, [*asked, "--json"])
    assert msgspec.json.decode(whole.output, type=top.Seen) == SEEN
