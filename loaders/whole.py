"""Small files that are there whole or not at all, whoever is killed and whoever writes the same meanwhile. IO."""

import contextlib
import os
from pathlib import Path


def write(path: Path, data: bytes) -> None:
    """Raises `OSError`, with nothing left behind."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
