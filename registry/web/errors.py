"""Why a sign-in through the company's identity provider failed. Pure.

SignInError (a RegistryError)
├── ProviderDownError          the provider does not answer, or not as one
├── ProviderRefusedError       the provider says no
├── IssuerError                the answer is another provider's
├── AttemptError               the visitor came back to a sign-in that this browser did not begin
├── IdTokenError               the id token does not hold: signature, audience, nonce, times
├── OrganizationClaimError     the claims name no organization, or several
├── UnknownOrganizationError   the organization of the claims does not exist here
└── RoleClaimError             the claims give no role
"""

from collections.abc import Sequence

from registry.errors import RegistryError


class SignInError(RegistryError):
    """Root of what goes wrong when somebody signs in through the identity provider; shown on the sign-in page."""

    status = 403


class ProviderDownError(SignInError):
    """The provider cannot be used now. Try again, sign in with a key, or look at MARQUEE_OIDC_ISSUER."""

    status = 502

    def __init__(self, issuer: str, reason: str) -> None:
        super().__init__(f"the identity provider {issuer} does not answer as it should: {reason}")
        self.issuer = issuer


class ProviderRefusedError(SignInError):
    """The provider refused: the person gave up, or the client's id, secret or redirect address is not known there."""

    def __init__(self, code: str, description: str | None) -> None:
        super().__init__(f"the identity provider refused: {description or code}")
        self.code = code


class IssuerError(SignInError):
    """Somebody else's answer. MARQUEE_OIDC_ISSUER must be exactly what the provider calls itself."""

    def __init__(self, expected: str, found: str) -> None:
        super().__init__(f"the issuer should be {expected} and is {found}")
        self.expected = expected
        self.found = found


class AttemptError(SignInError):
    """State or cookie do not match, or it took too long. Begin again."""

    status = 400


class IdTokenError(SignInError):
    """The id token is not believed."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the id token does not hold: {reason}")
        self.reason = reason


class OrganizationClaimError(SignInError):
    """Correct the person's claim at the provider, or MARQUEE_OIDC_ORGANIZATION_CLAIM and MARQUEE_OIDC_ORGANIZATIONS."""

    def __init__(self, claim: str, values: Sequence[str]) -> None:
        said = ", ".join(values) or "nothing"
        super().__init__(f"the claim {claim!r} must name one organization and says {said}")
        self.claim = claim


class UnknownOrganizationError(SignInError):
    """Make the organization first: a key or a catalogue entry of its own does."""

    def __init__(self, organization: str) -> None:
        super().__init__(f"there is no organization {organization!r} here")
        self.organization = organization


class RoleClaimError(SignInError):
    """Correct the person's claim at the provider, or MARQUEE_OIDC_ROLE_CLAIM and MARQUEE_OIDC_ROLES."""

    def __init__(self, claim: str, values: Sequence[str]) -> None:
        said = ", ".join(values) or "nothing"
        super().__init__(f"the claim {claim!r} must give a role and says {said}")
        self.claim = claim
