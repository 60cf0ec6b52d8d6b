"""What one host can do: keep many models warm, swap their weights, run them. Imports only `registry`'s pure modules.

`from loaders import Loader` is the library without a server; `docs/loaders.md` shows it. Importing this package
imports nothing heavy.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loaders.library import FailedRunError, Loader, Output, Result

__all__ = ["FailedRunError", "Loader", "Output", "Result"]


def __getattr__(name: str) -> Any:
    """The library's names, imported when they are asked for."""
    if name not in __all__:
        raise AttributeError(name)
    from loaders import library

    return getattr(library, name)
