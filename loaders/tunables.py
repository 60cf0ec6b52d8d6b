"""What the C library has to be told before a process begins: that large copies go past the processor's caches.

What a cold read copies into place nobody looks at soon. Copied the ordinary way it takes twice the memory traffic and
competes with the disk for it: measured, cold reads were 1.4 times as fast with this. glibc reads it at the start of a
process only, so a host starts itself once more. Pure but for `apply`; it refuses to change what an operator has set.
"""

import os
import platform
import sys
from collections.abc import Mapping

NAME = "GLIBC_TUNABLES"
SETTING = "glibc.cpu.x86_non_temporal_threshold"
VALUE = "0x80000"  # 512 KiB: what a run copies is smaller, or does not stay in the caches either


def wanted(environment: Mapping[str, str]) -> dict[str, str] | None:
    """The environment to start with; None when this one will do."""
    told = environment.get(NAME, "")
    if SETTING in told:
        return None
    return {**environment, NAME: ":".join(filter(None, (told, f"{SETTING}={VALUE}")))}


def apply() -> None:
    """Does not return where the process has to begin anew: same id, same arguments."""
    environment = wanted(os.environ)
    if environment is not None and platform.machine() == "x86_64" and platform.libc_ver()[0] == "glibc":
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)  # noqa: S606
