"""`python -m benchmarks [NAME…]`: runs the named benchmarks, or every one, and prints their tables."""

import importlib
import pkgutil
import sys
import time
from pathlib import Path

import benchmarks


def names() -> list[str]:
    found = [module.name for module in pkgutil.iter_modules(benchmarks.__path__)]
    return [name for name in found if not name.startswith("_") and "def main(" in source(name)]


def source(name: str) -> str:
    return (Path(benchmarks.__path__[0]) / f"{name}.py").read_text()


def run(wanted: list[str]) -> int:
    unknown = set(wanted) - set(names())
    if unknown:
        print(
            f"no benchmark named {', '.join(sorted(unknown))}; there are: {', '.join(names())}",
            file=sys.stderr,
        )
        return 2
    for name in wanted or names():
        print(f"== {name}", flush=True)
        began = time.perf_counter()
        importlib.import_module(f"benchmarks.{name}").main()
        print(f"   took {time.perf_counter() - began:.0f} s\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
