"""`marquee up` itself: it serves, stops, refuses in one clear line, and leaves nothing half-started."""

import signal
import socket
import stat

import httpx
import psutil
import pytest


def alive(pid):
    """A process that ended but that its parent has not yet asked about is not alive."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_ready_names_address_keys_and_processes(marquee):
    ready = marquee.ready
    assert set(ready) == {"url", "customer_key", "lab_key", "operator_key", "pids"}
    assert all(alive(pid) for pid in ready["pids"].values())
    assert stat.S_IMODE((marquee.home / "ready.json").stat().st_mode) == 0o600
    with marquee.client() as client:
        assert client.get("/healthz").status_code == 200


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_all_it_started(own_marquee, signal_number):
    product = own_marquee(port=0).start()
    pids = product.pids
    assert httpx.get(f"{product.ready['url']}/healthz").json()["hosts"] == 1  # where `ready.json` says
    seconds, code = product.stop(signal_number)
    assert code == 0, product.output()
    assert seconds < 10
    assert [name for name, pid in pids.items() if alive(pid)] == []
    assert not (product.home / "ready.json").exists()


def refusal(product):
    """The one line and exit code 1 of an `up` that cannot start."""
    product.spawn()
    assert product.process.wait(timeout=60) == 1, product.output()
    return (product.home.parent / f"{product.home.name}.out").read_text().strip().splitlines()[-1]


def test_a_busy_port_is_named(own_marquee):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert str(port) in refusal(own_marquee(port=port))


def test_a_home_in_use_is_named(own_marquee, marquee):
    assert "another `marquee up`" in refusal(own_marquee(home=marquee.home))
    with marquee.client() as client:
        assert client.get("/healthz").status_code == 200


def test_a_home_that_is_a_file_is_named(own_marquee, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    assert "home" in refusal(own_marquee(home=tmp_path / "file"))


def test_a_damaged_database_is_named(own_marquee):
    product = own_marquee()
    data = product.home / "postgres" / "data"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("garbage")
    (data / "base").mkdir()
    assert "damaged" in refusal(product)
