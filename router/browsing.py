"""The snapshot as a shelf to browse: what `registry.listing` shows a reader. Pure but for the clock of the catalogue."""

from registry.catalog import Caller, Variant
from registry.errors import UnknownCallerError
from registry.listing import AnyRequest, Shelf, Texts
from router.errors import UnauthorizedError
from router.links import token_of
from router.snapshot import Catalogue, Snapshot


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
            visible=visible,
            callable=snapshot.is_callable,
            now=now,
            address=self._address,
        )

    def reader(self, request: AnyRequest) -> Caller | None:
        """Visitors without a key may read; a wrong key is refused."""
        if "authorization" not in request.headers:
            return None
        try:
            return self._catalogue.now.caller(token_of(request.headers["authorization"]), None)
        except UnauthorizedError as error:
            raise UnknownCallerError(str(error)) from error
