"""The snapshot as a shelf to browse: what `registry.listing` shows a reader. Pure but for the clock of the catalogue."""

from collections.abc import Iterable

from registry.catalog import Adapter, Caller, Slug, Variant
from registry.errors import UnknownCallerError
from registry.listing import AnyRequest, Shelf, Texts
from router.catalogue import Catalogue
from router.errors import UnauthorizedError
from router.links import token_of
from router.snapshot import Snapshot


class Browser:
    """Keeps the searchable texts of one snapshot, until another takes its place."""

    def __init__(self, catalogue: Catalogue, address: str) -> None:
        self._catalogue = catalogue
        self._address = address
        self._indexed: tuple[Snapshot, Texts] | None = None

    def shelf(self, caller: Caller | None) -> Shelf:
        snapshot, now = self._catalogue.now, self._catalogue.clock()
        if self._indexed is None or self._indexed[0] is not snapshot:
            self._indexed = (snapshot, Texts(snapshot.variants.values()))

        def visible(variant: Variant) -> bool:
            return snapshot.visible(variant.slug, caller, now)

        return Shelf(
            texts=self._indexed[1],
            releases=snapshot.releases,
            adapter_releases=snapshot.adapter_releases,
            visible=visible,
            callable=snapshot.is_callable,
            now=now,
            address=self._address,
        )

    def adapters(self, caller: Caller | None, base: str | None) -> Iterable[Adapter]:
        """Of one base, where it is named: nothing for a base that the caller may not know."""
        if base is not None:
            variant = self._catalogue.variant(caller, Slug(base))
            return () if variant is None else self._catalogue.adapters(caller, variant)
        snapshot, now = self._catalogue.now, self._catalogue.clock()
        found = (snapshot.adapter(slug, caller, now) for slug in snapshot.adapter_releases)
        return tuple(one for one in found if isinstance(one, Adapter))

    def reader(self, request: AnyRequest) -> Caller | None:
        """Visitors without a key may read; a wrong key is refused."""
        if "authorization" not in request.headers:
            return None
        try:
            return self._catalogue.now.caller(token_of(request.headers["authorization"]), None)
        except UnauthorizedError as error:
            raise UnknownCallerError(str(error)) from error
