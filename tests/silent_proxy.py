"""A way to the test's Postgres over TCP that can fall silent: connections stay open, and nothing comes through."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import sqlalchemy


class SilentProxy:
    """`dsn` leads through it."""

    def __init__(self, dsn: str) -> None:
        self._url = sqlalchemy.make_url(dsn)
        self._socket = f"{self._url.query['host']}/.s.PGSQL.5432"
        self._talks = asyncio.Event()
        self._talks.set()
        self.dsn = ""

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator["SilentProxy"]:
        server = await asyncio.start_server(self._serve, "127.0.0.1")
        port = server.sockets[0].getsockname()[1]
        self.dsn = f"postgresql://{self._url.username}@127.0.0.1:{port}/{self._url.database}"
        try:
            yield self
        finally:
            server.close()

    def fall_silent(self) -> None:
        self._talks.clear()

    def talk_again(self) -> None:
        self._talks.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_unix_connection(self._socket)
        await asyncio.gather(self._pass_on(reader, there_writer), self._pass_on(there_reader, writer))

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while said := await reader.read(1 << 16):
                await self._talks.wait()
                writer.write(said)
                await writer.drain()
        writer.close()
