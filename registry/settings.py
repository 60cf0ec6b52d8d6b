"""The settings of every process, read once from the environment into a frozen struct and handed down.

It refuses bad values by name at start-up. Reads nothing but the mapping it is given; pure.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec

from registry import addresses, choices
from registry.errors import SettingsError

CompileMode = Literal["off", "auto", "on"]
PREFIX = "MARQUEE_"
CLIENT_KEYS = frozenset({"MARQUEE_URL", "MARQUEE_KEY"})  # the commands' own: whom they talk to, as whom
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
DEVICE = re.compile(r"auto|all|(cpu|cuda(:\d{1,3})?)(,(cpu|cuda:\d{1,3}))*")
LOG_LEVELS = ("debug", "info", "warning", "error")
PROVIDERS = ("fal", "replicate", "openai")  # whose APIs `router.partners` speaks


class PartnerAccount(msgspec.Struct, frozen=True, kw_only=True):
    """How we call one provider: as whom, where, and how often at once."""

    provider: str
    key: str
    url: str  # without a trailing slash
    at_once: int
    longest_seconds: float
    allow_private: bool


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Each field is an environment variable `MARQUEE_<FIELD>`; None means decided at start ("auto")."""

    home: Path = Path(".marquee")  # all state: database, files, weights, keys
    database_url: str | None = None  # None: the embedded Postgres under `home`
    host: str = "127.0.0.1"  # address the gateway listens on
    port: int = 8080
    public_url: str | None = None  # how customers reach the gateway; None: http://host:port
    pool: str = "local"
    device: str = "auto"  # auto, cpu, cuda:0; of hosts also several with commas, or all
    log_level: str = "info"
    hub_endpoint: str | None = None  # None: huggingface_hub's own default
    hub_token: str | None = None
    device_budget_bytes: int | None = None
    memory_budget_bytes: int | None = None
    disk_budget_bytes: int | None = None
    hosts_here: int = (
        1  # that share this machine's memory and their home; budgets of both are divided among them
    )
    host_seat: int = 0  # which of them this one is
    compile: CompileMode = "off"  # auto: a host finds out by an architecture's first request whether it pays
    eviction_order: Literal["lru", "cost"] = "lru"  # cost: large, quick to bring back, rarely used goes first
    blobs_url: str | None = None  # where the pool's other hosts reach this one's files; None: gives out none
    download_bytes_per_second: int | None = None  # a host's cap for fetching weights
    host_key: str | None = None  # how a host signs in to its router
    drain_seconds: float = 600.0  # after SIGTERM, for a host's running request to end; then it is handed back
    key_requests_per_minute: int | None = None  # calls of one key, over all gateways; None: no limit
    key_requests_at_once: int | None = None  # of one key's requests on hosts; the others wait their turn
    longest_wait_seconds: float | None = (
        None  # beyond which new work is refused with Retry-After; None: never
    )
    retention_days: int = 30  # requests, attempts and output files are kept; the ledger is kept for good
    allow_private_webhooks: bool = False  # whether webhooks may call addresses inside private networks
    allow_private_inputs: bool = (
        False  # whether image_url, labs' sources and LoRAs may have addresses inside private networks
    )
    lora_bytes: int = (
        2 << 30
    )  # of the largest LoRA that a customer may bring by address; 0: none may be brought
    upload_bytes: int = 1 << 40  # that one organization's uploads of weights may hold; 0: as much as the disk
    playground_key: str | None = None  # whose account the page uses on a loopback address
    otlp_endpoint: str | None = None  # OpenTelemetry collector for traces, OTLP over HTTP; None: no traces
    trace_share: float = 1.0  # of the traces that begin here; callers' own decisions are kept
    oidc_issuer: str | None = None  # the identity provider that pages offer beside keys; None: keys only
    oidc_client_id: str | None = None
    oidc_client_secret: str | None = None  # None: a public client
    oidc_name: str = "your organization's account"  # what the sign-in button says after "Sign in with"
    oidc_scopes: str = "openid profile email"
    oidc_organization_claim: str = "organization"
    oidc_organizations: str = ""  # "value=organization, …"; empty: the claim's value is the organization
    oidc_role_claim: str = "role"
    oidc_roles: str = ""  # "value=operator|lab|customer, …", `*` for everybody; empty: the value is the role
    oidc_session_hours: float = 12.0
    partner_fal_key: str | None = None  # with it, catalogue entries of this partner can be called
    partner_fal_url: str = "https://queue.fal.run"  # another Marquee: https://…/fal/queue
    partner_fal_at_once: int = 20  # requests of ours that the partner has at a time
    partner_replicate_key: str | None = None
    partner_replicate_url: str = "https://api.replicate.com"  # another Marquee: https://…/replicate
    partner_replicate_at_once: int = 20
    partner_openai_key: str | None = None
    partner_openai_url: str = "https://api.openai.com/v1"
    partner_openai_at_once: int = 8
    partner_longest_seconds: float = 1800.0  # that a partner may take for one request
    allow_private_partners: bool = False  # whether outputs may lie at addresses inside private networks

    @classmethod
    def from_environment(cls, environ: Mapping[str, str], **overrides: Any) -> "Settings":
        """Overrides that are None count as not given. Raises `SettingsError`."""
        fields = cls.__struct_fields__
        for key in environ:
            if key.startswith(PREFIX) and key not in CLIENT_KEYS and key[len(PREFIX) :].lower() not in fields:
                raise SettingsError(key, "no such setting")
        values: dict[str, Any] = {
            name: environ[PREFIX + name.upper()] for name in fields if environ.get(PREFIX + name.upper())
        }
        values |= {name: value for name, value in overrides.items() if value is not None}
        try:
            settings = msgspec.convert(values, cls, strict=False, dec_hook=_decode)
        except msgspec.ValidationError as error:
            (field, *_), reason = choices.told(error, cls)
            raise SettingsError(variable(field), reason) from error
        return _checked(settings)

    @property
    def partners(self) -> Mapping[str, PartnerAccount]:
        """The providers that have a key, by name."""
        return {
            name: PartnerAccount(
                provider=name,
                key=key,
                url=str(getattr(self, f"partner_{name}_url")).rstrip("/"),
                at_once=getattr(self, f"partner_{name}_at_once"),
                longest_seconds=self.partner_longest_seconds,
                allow_private=self.allow_private_partners,
            )
            for name in PROVIDERS
            if (key := getattr(self, partner_key(name))) is not None
        }

    @property
    def address(self) -> str:
        """Where customers reach the gateway, without a trailing slash."""
        return (self.public_url or self.local_address).rstrip("/")

    @property
    def local_address(self) -> str:
        """Where processes on this machine reach the gateway."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104  read, not bound
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    def environment(self) -> dict[str, str]:
        """The variables that give a child process these same settings."""
        values = {name: getattr(self, name) for name in self.__struct_fields__}
        return {PREFIX + name.upper(): str(value) for name, value in values.items() if value is not None}


def partner_key(provider: str) -> str:
    """The field that holds a provider's key."""
    return f"partner_{provider}_key"


def variable(field: str) -> str:
    """The environment variable of a field."""
    return PREFIX + field.upper()


def _checked(settings: Settings) -> Settings:
    if not 0 <= settings.port <= 65535:
        raise SettingsError(f"{PREFIX}PORT", f"{settings.port} is not a port number")
    _check_words(settings)
    limits = ("key_requests_per_minute", "key_requests_at_once", "longest_wait_seconds")
    for name in (*limits, "partner_longest_seconds", *(f"partner_{p}_at_once" for p in PROVIDERS)):
        if (limit := getattr(settings, name)) is not None and limit <= 0:
            raise SettingsError(PREFIX + name.upper(), "a limit is more than nothing")
    if settings.retention_days < 1:
        raise SettingsError(f"{PREFIX}RETENTION_DAYS", "at least one day is kept")
    _check_oidc(settings)
    if not 0 <= settings.trace_share <= 1:
        raise SettingsError(f"{PREFIX}TRACE_SHARE", "a share lies between 0 and 1")
    if settings.otlp_endpoint is not None and urlsplit(settings.otlp_endpoint).scheme not in {
        "http",
        "https",
    }:
        raise SettingsError(f"{PREFIX}OTLP_ENDPOINT", f"{settings.otlp_endpoint!r} is not an http(s) address")
    for name in (
        "device_budget_bytes",
        "memory_budget_bytes",
        "disk_budget_bytes",
        "lora_bytes",
        "upload_bytes",
        "drain_seconds",
    ):
        if (getattr(settings, name) or 0) < 0:
            raise SettingsError(PREFIX + name.upper(), "a budget cannot be negative")
    if not 0 <= settings.host_seat < settings.hosts_here:
        raise SettingsError(f"{PREFIX}HOST_SEAT", f"of {settings.hosts_here} hosts the first has 0")
    _check_partners(settings)
    return settings


def _check_words(settings: Settings) -> None:
    if not DEVICE.fullmatch(settings.device):
        raise SettingsError(
            f"{PREFIX}DEVICE", f"{settings.device!r} is not auto, all, cpu or cuda:0, cuda:1 …"
        )
    if settings.log_level not in LOG_LEVELS:
        raise SettingsError(
            f"{PREFIX}LOG_LEVEL", f"{settings.log_level!r} is not one of {', '.join(LOG_LEVELS)}"
        )


def _check_oidc(settings: Settings) -> None:
    if settings.oidc_issuer is None:
        return
    url = urlsplit(settings.oidc_issuer)
    if url.scheme != "https" and (url.scheme, url.hostname) not in {("http", h) for h in LOOPBACK_NAMES}:
        raise SettingsError(f"{PREFIX}OIDC_ISSUER", f"{settings.oidc_issuer!r} is not an https address")
    if not settings.oidc_client_id:
        raise SettingsError(f"{PREFIX}OIDC_CLIENT_ID", "an issuer needs the client id that it knows us by")
    if settings.oidc_session_hours <= 0:
        raise SettingsError(f"{PREFIX}OIDC_SESSION_HOURS", "a session is longer than nothing")
    pairs(f"{PREFIX}OIDC_ORGANIZATIONS", settings.oidc_organizations)
    wrong = set(pairs(f"{PREFIX}OIDC_ROLES", settings.oidc_roles).values()) - {"operator", "lab", "customer"}
    if wrong:
        raise SettingsError(
            f"{PREFIX}OIDC_ROLES", f"{', '.join(sorted(wrong))} is not operator, lab or customer"
        )


def pairs(key: str, text: str) -> dict[str, str]:
    """`a=b, c=d` as a mapping; the last `=` of a pair counts. Raises `SettingsError`."""
    found: dict[str, str] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        value, sign, name = item.rpartition("=")
        if not (sign and value.strip() and name.strip()):
            raise SettingsError(key, f"{item!r} is not of the form value=name")
        found[value.strip()] = name.strip()
    return found


def _check_partners(settings: Settings) -> None:
    for provider in PROVIDERS:
        key = getattr(settings, partner_key(provider))
        if key is not None and not (key.isascii() and key.isprintable() and " " not in key):
            raise SettingsError(variable(partner_key(provider)), "a key is one word of ASCII")  # never say it
        address, url = f"partner_{provider}_url", getattr(settings, f"partner_{provider}_url")
        if not _is_base_address(url):
            raise SettingsError(variable(address), f"{url!r} is no address of the form https://host/path")


def _is_base_address(url: str) -> bool:
    """Paths can be put behind it."""
    if not addresses.is_http(url):
        return False
    parts = urlsplit(url)
    return not (parts.query or parts.fragment) and parts.username is None


def _decode(kind: type, value: Any) -> Any:
    if kind is Path:
        return Path(value).expanduser()
    raise TypeError(kind)
