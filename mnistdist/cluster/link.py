"""The pipe between a cluster's relay and the agent on a host: what goes through it, the same at both ends.

After the agent's first line, with its versions, there are frames. A frame is a channel, a length, so many bytes, and a
newline, because some programs pass on whole lines only. Channel 0 has messages, each a JSON object; an empty one is a
beat. Each other channel is a connection of an engine's to a socket of the controller's, so that an engine needs no way
to the client but this pipe, whatever program has laid it.
"""

import asyncio
import contextlib
import json
import struct
import sys
from importlib.metadata import PackageNotFoundError, version

import mnistdist

BEAT, SILENCE = 1, 8  # seconds between two beats; seconds without a word after which a link is lost
GREETING = b"mnistdist agent "
_HEADER = struct.Struct(">II")
_CHUNK = 2**16


def versions():
    """What an agent says first: versions, of which the first two have to be the client's. None is what isn't there."""
    found = {"mnistdist": mnistdist.__version__, "Python": "{}.{}".format(*sys.version_info), "TensorFlow": None}
    with contextlib.suppress(PackageNotFoundError):
        found["TensorFlow"] = version("tensorflow")
    return found


class Link:
    """One end of the pipe, made of a ``StreamReader`` and a ``StreamWriter``."""

    def __init__(self, reader, writer):
        self._reader, self._writer = reader, writer
        self._sockets, self._running = {}, set()  # the writer of each channel; what goes on in the background

    def tell(self, **message):
        """Sends a message, soon."""
        self._put(0, json.dumps(message).encode())

    def _put(self, channel, content):
        self._writer.write(_HEADER.pack(channel, len(content)) + content + b"\n")

    def start_to_beat(self):
        """From now on, the other side hears something at least once a second."""
        self._run(self._beat())

    async def _beat(self):
        while True:
            self.tell()
            await asyncio.sleep(BEAT)

    def _run(self, coroutine):
        task = asyncio.ensure_future(coroutine)
        self._running.add(task)  # asyncio itself would forget it
        task.add_done_callback(self._running.discard)

    async def messages(self):
        """Yields the other side's messages until it closes the pipe; meanwhile passes on what is for a socket.

        Raises ``asyncio.TimeoutError`` if the other side has been silent for :data:`SILENCE` seconds.
        """
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                channel, content = await asyncio.wait_for(self._frame(), SILENCE)
                if channel == 0 and (message := json.loads(content)):
                    yield message
                elif channel in self._sockets and content:
                    self._sockets[channel].write(content)  # unlimited, because others must not wait for this one
                elif channel in self._sockets:
                    self._sockets.pop(channel).close()

    async def _frame(self):
        channel, length = _HEADER.unpack(await self._reader.readexactly(_HEADER.size))
        return channel, (await self._reader.readexactly(length + 1))[:-1]

    def carry(self, channel, reader, writer):
        """Lets a channel stand for the connection to a socket, given as its two streams, until either end is closed."""
        self._sockets[channel] = writer
        self._run(self._carry(channel, reader))

    async def _carry(self, channel, reader):
        with contextlib.suppress(ConnectionError):
            while content := await reader.read(_CHUNK):
                self._put(channel, content)
                await self._writer.drain()
        if writer := self._sockets.pop(channel, None):
            writer.close()
            self.close(channel)

    def close(self, channel):
        """Tells the other side that this end of a channel is closed."""
        self._put(channel, b"")
