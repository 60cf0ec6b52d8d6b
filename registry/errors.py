"""Every error the registry raises on purpose; foreign exceptions are translated at the seam they cross. Pure.

RegistryError
├── SettingsError                 the environment holds a value that cannot be used
├── DatabaseError
│   ├── NoDatabaseError           the home folder holds no database
│   ├── SchemaOutdatedError       the database is of an earlier release
│   ├── HomeNotWritableError      the home folder cannot be written
│   ├── HomeDamagedError          the embedded database's files are not what Postgres expects
│   ├── DatabaseUnreachableError  nobody answers at the given address
│   └── MigrationError            the schema could not be brought up to date
├── CatalogError
│   ├── CatalogFileError          catalog.yaml is wrong; names the YAML path and the line
│   ├── FolderError               a folder is not a diffusers pipeline or adapter
│   ├── HubError                  the Hub does not answer, or does not give what is asked
│   │   └── GatedError                the repository's licence wants to be accepted, or a token
│   ├── AddressError              an address may not be read (private, no http), or gives nothing
│   ├── MisfitError               weights that do not fit their config, or an adapter its base; `name` says how
│   └── InUseError                what should be removed is still called
├── WeightsError                  a weights file is refused
│   ├── NotSafetensorsError            the bytes are of another format (pickle, zip, tar, GGUF, HTML…), whatever the name
│   ├── TruncatedError                 the file ends before its header or its data does
│   ├── HeaderTooLongError             the header's stated length is beyond the limit
│   ├── HeaderTooShortError            …or cannot hold even `{}`
│   ├── HeaderEncodingError            the header is not UTF-8, or does not begin with `{`
│   ├── HeaderJsonError                the header is not one JSON object
│   ├── DuplicateNameError             one tensor name stands twice
│   ├── MetadataError                  `__metadata__` is not a map of strings to strings
│   ├── TensorNameError                a name is empty, too long, or holds control characters
│   ├── TensorFieldsError              a tensor lacks a field or has a strange one
│   ├── DtypeError                     the dtype is not one we know
│   ├── ShapeError                     the shape is not a short list of small integers
│   ├── OffsetsError                   the offsets are not two growing integers inside the data
│   ├── SizeMismatchError              shape and dtype do not give the span of the offsets
│   ├── OverlapError                   two tensors share bytes
│   ├── GapError                       bytes belong to no tensor
│   ├── TrailingBytesError             bytes follow the last tensor
│   ├── TooManyTensorsError            more tensors than any model has
│   └── DigestMismatchError            the bytes are not those that were announced
├── UnknownKeyError               no key has this id
├── SignInError                   of `registry.web.errors`: the company's own sign-in failed
└── PublishingError               an operation of a lab is refused
    ├── UnknownCallerError             no key, or one that is not valid
    ├── AccessError                    the key lacks the scope, or the name belongs to somebody else
    ├── UnknownSubjectError            nothing of this name, or nothing the caller may see
    ├── TakenError                     the name is taken
    ├── StaleError                     somebody changed it meanwhile: If-Match does not match
    ├── MissingHeaderError             a write came without Idempotency-Key, or an edit without If-Match
    ├── ReusedKeyError                 an Idempotency-Key came back with another request
    ├── IllegalMoveError               a version's state does not lead there
    ├── QuotaError                     the organization's uploads would hold more than they may
    ├── InvalidRequestError            the request's contents make no sense; names the field
    ├── UploadError                    a chunk does not continue where the file ended
    └── StorageError                   the server's disk does not take what is uploaded
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


class NoDatabaseError(DatabaseError):
    """Nothing was ever started at this home. Name the right one with --home, or MARQUEE_DATABASE_URL."""

    def __init__(self, home: object) -> None:
        super().__init__(
            f"no database in {home}: name the home of `marquee up` (--home, MARQUEE_HOME), or MARQUEE_DATABASE_URL"
        )
        self.home = home


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


class SchemaOutdatedError(DatabaseError):
    """The database lacks migrations of this release. Make them with `marquee migrate`."""

    def __init__(self, current: str | None, needed: str) -> None:
        found = f"at migration {current}" if current else "empty"
        super().__init__(f"the database is {found}, this release needs {needed}: run `marquee migrate` first")
        self.current = current
        self.needed = needed


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


class HubError(CatalogError):
    """The Hub is not there, knows no such repository, or wants a token. Says which repository it was."""

    def __init__(self, repository: str, reason: str) -> None:
        super().__init__(f"{repository}: {reason}")
        self.repository = repository


class HubSilentError(HubError):
    """The Hub does not answer, or is overloaded. What it said before still holds; otherwise try again."""


class GatedError(HubError):
    """The Hub gives the repository only to accounts that accepted its licence. Accept it, and set a token of that account."""

    def __init__(self, repository: str) -> None:
        super().__init__(repository, "it is gated: accept its licence on the Hub and set MARQUEE_HUB_TOKEN")


class AddressError(CatalogError):
    """An address of somebody else's choosing is private, is none, or gives nothing. The message is for its chooser."""


class MisfitError(CatalogError):
    """Weights do not fit their config, or an adapter not its base; `name` is the refusal's own: `ConfigMismatchError`…"""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(reason)
        self.name = name


class InUseError(CatalogError):
    """Something that customers still call, or versions are made of, should be removed. Say it twice, with its name, to do it all the same."""

    def __init__(self, subject: str, callers: Sequence[str], how: str = "called") -> None:
        super().__init__(f"{subject} is still {how} by {', '.join(callers)}")
        self.subject = subject
        self.callers = tuple(callers)


class WeightsError(RegistryError):
    """Root of the refusals of weights files."""


class NotSafetensorsError(WeightsError):
    """The content is of another format. Convert the weights with safetensors and publish those."""


class TruncatedError(WeightsError):
    """The file is shorter than it says. Upload it again."""


class HeaderTooLongError(WeightsError):
    """The header's stated length is beyond what the format allows."""


class HeaderTooShortError(WeightsError):
    """The header's stated length cannot hold an object."""


class HeaderEncodingError(WeightsError):
    """The header is not text that begins with an opening brace."""


class HeaderJsonError(WeightsError):
    """The header is not one JSON object."""


class DuplicateNameError(WeightsError):
    """Two entries have one name; readers would disagree on which counts."""


class MetadataError(WeightsError):
    """The metadata is not a map of strings."""


class TensorNameError(WeightsError):
    """A tensor's name cannot be a parameter's."""


class TensorFieldsError(WeightsError):
    """A tensor's entry is not exactly dtype, shape and data_offsets."""


class DtypeError(WeightsError):
    """A dtype that no reader here knows."""


class ShapeError(WeightsError):
    """A shape that no tensor can have."""


class OffsetsError(WeightsError):
    """Offsets that do not name a span of the data."""


class SizeMismatchError(WeightsError):
    """Shape and dtype need another number of bytes than the offsets span."""


class OverlapError(WeightsError):
    """Two tensors claim the same bytes."""


class GapError(WeightsError):
    """Bytes that no tensor claims, where something could hide."""


class TrailingBytesError(WeightsError):
    """Bytes after the last tensor, where something could hide."""


class TooManyTensorsError(WeightsError):
    """More tensors than any model has: made to exhaust memory."""


class DigestMismatchError(WeightsError):
    """The bytes are not those that were announced."""

    def __init__(self, path: str, expected: str, actual: str) -> None:
        super().__init__(f"{path}: announced sha256 {expected}, received {actual}")
        self.expected = expected
        self.actual = actual


class UnknownKeyError(RegistryError):
    """No key has this id, or it belongs to another organization."""

    def __init__(self, key_id: str) -> None:
        super().__init__(f"no key {key_id}")
        self.key_id = key_id


class PublishingError(RegistryError):
    """Root of the refusals of what labs and operators ask for."""


class UnknownCallerError(PublishingError):
    """The request carries no valid key. Send `Authorization: Key …`."""


class AccessError(PublishingError):
    """The key lacks a scope, or the name belongs to another organization. Use another key or another name."""


class UnknownSubjectError(PublishingError):
    """Nothing of this name exists, or nothing that the caller may see."""

    def __init__(self, kind: str, name: object) -> None:
        super().__init__(f"no {kind} {name}")
        self.kind = kind
        self.name = name


class TakenError(PublishingError):
    """The name is taken. Choose another, or edit what is there."""


class StaleError(PublishingError):
    """The subject changed since it was read. Read it again, then repeat with its new ETag."""


class MissingHeaderError(PublishingError):
    """The request lacks a header that makes it safe to repeat or to run beside others."""


class ReusedKeyError(PublishingError):
    """An Idempotency-Key names one request for good. Choose a new key for a new request."""


class IllegalMoveError(PublishingError):
    """A version's state does not lead where it should go."""

    def __init__(self, before: str, after: str) -> None:
        super().__init__(f"a version that is {before} cannot become {after}")
        self.before = before
        self.after = after


class QuotaError(PublishingError):
    """An organization's uploads hold as much as they may. Remove what no version needs, or raise MARQUEE_UPLOAD_BYTES."""

    def __init__(self, organization: str, used: int, wanted: int, allowed: int) -> None:
        super().__init__(
            f"the uploads of {organization} hold {used:,} of {allowed:,} bytes, and this one is {wanted:,}: remove what no"
            " version needs (`marquee publish uploads`), or have the operator raise MARQUEE_UPLOAD_BYTES"
        )
        self.used = used
        self.allowed = allowed


class InvalidRequestError(PublishingError):
    """The request's contents make no sense; `field` says where."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field


class UploadError(PublishingError):
    """A chunk does not begin where the file ends; `offset_bytes` says where to go on."""

    def __init__(self, reason: str, offset_bytes: int) -> None:
        super().__init__(reason)
        self.offset_bytes = offset_bytes


class StorageError(PublishingError):
    """The disk does not take a chunk: full, mostly. What arrived stays; make room on the server and go on there."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path} cannot be stored: {reason}; what arrived is kept, go on when there is room")
