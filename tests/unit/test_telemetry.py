"""Every figure that the alert rules and the Grafana dashboard ask for is one that the gateway gives."""

import json
import re
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from registry import edge
from registry.catalog import Digest, OrganizationName, Slug
from registry.dashboard.live import FleetState, HostState, PartnerState
from router.requests import Outcome, Request, RequestId, State, Status
from router.telemetry import Telemetry

OPS = Path(__file__).parents[2] / "ops"
NAME = re.compile(r"marquee_[a-z_]+")
NOW = datetime(2026, 11, 23, tzinfo=UTC)


def scraped(fleet: FleetState | None) -> str:
    metrics = edge.Metrics()
    telemetry = Telemetry(metrics.registry, lambda: fleet)
    metrics.http_seconds.labels("GET", "/", "200").observe(0.1)
    request = Request(
        id=RequestId("r"),
        organization=OrganizationName("acme"),
        key_id="k",
        slug=Slug("lab/one"),
        version=Digest("sha256:v"),
        input={},
        created_at=NOW,
    )
    outcome = Outcome(state=State.SUCCEEDED, wait_seconds=1.0, run_seconds=3.0)
    telemetry.ended(Status(request=request, state=State.SUCCEEDED, outcome=outcome))
    return metrics.text().decode()


FLEET = FleetState(
    at=NOW,
    pool="local",
    hosts=(HostState(id="h", name="rack-7", device="cpu", slots=2, budget_bytes=8, used_bytes=4),),
    waiting=3,
    partners=(PartnerState(name="fal", waiting=2, running=1, is_down=True),),
)


def test_an_end_is_counted_with_its_seconds() -> None:
    text = scraped(FLEET)
    assert 'marquee_requests_total{door="fal",state="succeeded"} 1.0' in text
    assert "marquee_run_seconds_sum 3.0" in text
    assert 'marquee_waiting_requests{pool="local"} 3.0' in text
    assert 'marquee_device_used_bytes{host="rack-7",pool="local"} 4.0' in text
    assert 'marquee_partner_waiting_requests{partner="fal",pool="local"} 2.0' in text
    assert 'marquee_partner_down{partner="fal",pool="local"} 1.0' in text
    assert "lab/one" not in text
    assert "acme" not in text


def test_who_does_not_dispatch_tells_nothing_of_the_fleet() -> None:
    assert "marquee_hosts" not in scraped(None)


def test_alert_rules_and_the_dashboard_ask_for_what_there_is() -> None:
    rules = yaml.safe_load((OPS / "alerts.yml").read_text())["groups"][0]["rules"]
    board = json.loads((OPS / "grafana.json").read_text())
    asked = [rule["expr"] for rule in rules]
    asked += [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    given = set(NAME.findall(scraped(FLEET)))
    missing = {name for text in asked for name in NAME.findall(text)} - given
    assert missing == set()
    assert all(rule["annotations"]["summary"] and rule["labels"]["severity"] for rule in rules)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool on this machine")
def test_prometheus_itself_accepts_rules_and_queries(tmp_path: Path) -> None:
    """The dashboard's expressions as rules: so the same parser reads them."""
    board = json.loads((OPS / "grafana.json").read_text())
    asked = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    plain = [text.replace("$__rate_interval", "5m").replace("$__range", "1h") for text in asked]
    rules = [{"record": f"panel:{number}", "expr": text} for number, text in enumerate(plain)]
    queries = tmp_path / "queries.yml"
    queries.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    command = ["promtool", "check", "rules", str(OPS / "alerts.yml"), str(queries)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
