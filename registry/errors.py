"""Every error the registry raises on purpose; foreign exceptions are translated at the seam they cross. Pure.

RegistryError
├── SettingsError                 the environment holds a value that cannot be used
├── DatabaseError
│   ├── HomeNotWritableError      the home folder cannot be written
│   ├── HomeDamagedError          the embedded database's files are not what Postgres expects
│   ├── DatabaseUnreachableError  nobody answers at the given address
│   └── MigrationError            the schema could not be brought up to date
├── CatalogError
│   ├── CatalogFileError          catalog.yaml is wrong; names the YAML path and the line
│   ├── FolderError               a folder is not a diffusers pipeline or adapter
│   └── InUseError                what should be removed is still called
├── WeightsError                  a weights file is refused (`weights` draws its subtree)
└── UnknownKeyError               no key has this id
"""

from collections.abc import Sequence


class RegistryError(Exception):
    """Root of the registry's errors; its text is one line that a person can act on."""


class SettingsError(RegistryError):
    """A setting cannot be used. Correct the named environment variable or option."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"{key}: {reason}")
        self.key = key


class DatabaseError(RegistryError):
    """Root of what goes wrong between us and Postgres."""


class HomeNotWritableError(DatabaseError):
    """The home folder cannot be written. Choose another with --home, or change its owner."""

    def __init__(self, path: object, reason: str) -> None:
        super().__init__(f"cannot write to {path}: {reason}")
        self.path = path


class HomeDamagedError(DatabaseError):
    """The embedded database's folder is incomplete or of another release. Restore it, or move it away."""

    def __init__(self, path: object, reason: str) -> None:
        super().__init__(f"the database in {path} is damaged: {reason}")
        self.path = path


class DatabaseUnreachableError(DatabaseError):
    """Postgres does not answer, or refuses us. Check MARQUEE_DATABASE_URL and that the server runs."""


class MigrationError(DatabaseError):
    """The schema could not be migrated; nothing of the failed step was kept. Mend the cause and repeat."""


class CatalogError(RegistryError):
    """Root of what can be wrong with catalogue data."""


class CatalogFileError(CatalogError):
    """catalog.yaml is wrong at a place that the message names."""

    def __init__(self, reason: str, *, path: Sequence[str] = (), line: int | None = None) -> None:
        place = " → ".join(path) or "catalogue file"
        super().__init__(f"{place}{f' (line {line})' if line else ''}: {reason}")
        self.path = tuple(path)
        self.line = line
        self.reason = reason


class FolderError(CatalogError):
    """A folder does not hold what its entry says: a file is missing or unreadable."""

    def __init__(self, folder: object, reason: str) -> None:
        super().__init__(f"{folder}: {reason}")
        self.folder = folder
        self.reason = reason


class InUseError(CatalogError):
    """Something that customers still call should be removed. Say it twice, with its name, to do it all the same."""

    def __init__(self, subject: str, callers: Sequence[str]) -> None:
        super().__init__(f"{subject} is still called by {', '.join(callers)}")
        self.subject = subject
        self.callers = tuple(callers)


class WeightsError(RegistryError):
    """Root of the refusals of weights files."""


class UnknownKeyError(RegistryError):
    """No key has this id, or it belongs to another organization."""

    def __init__(self, key_id: str) -> None:
        super().__init__(f"no key {key_id}")
        self.key_id = key_id
