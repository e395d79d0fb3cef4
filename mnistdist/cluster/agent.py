"""The agent of a cluster on one of its hosts, ``python -m mnistdist.cluster.agent``: it has the tasks of that host.

Its stdin and stdout are the pipe to the relay. Below it are a keeper and a nursery, as on the client's machine. When
the pipe closes or is silent for too long, or the agent ends, the keeper ends all of it and removes the folder.
"""

import asyncio
import contextlib
import functools
import itertools
import json
import os
import shutil
import socket
import sys
from asyncio.streams import FlowControlMixin
from pathlib import Path

from mnistdist._output import end_now
from mnistdist.cluster import pinning
from mnistdist.cluster._ipyparallel import engine_ports, engines_file
from mnistdist.cluster.link import GREETING, Link, versions
from mnistdist.cluster.network import hosts_of, parse_address, why_no_port
from mnistdist.cluster.process_tree import end_keeper, new_folder, start_keeper
from mnistdist.cluster.recovery import is_stopped

LOOK = 0.2  # seconds between two looks at the logs and the tasks
MOST = 2**16  # bytes of a log that are sent at once; of more, the last


def main():
    """The agent's entry."""
    pipe = os.dup(1)
    os.dup2(2, 1)  # so that nothing else is written to the pipe
    os.write(pipe, GREETING + json.dumps(versions()).encode() + b"\n")
    asyncio.run(_serve(pipe))


async def _serve(pipe):
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    out = await loop.connect_write_pipe(FlowControlMixin, os.fdopen(pipe, "wb", 0))
    link, host = Link(reader, asyncio.StreamWriter(*out, None, loop)), None
    link.start_to_beat()
    try:
        async for message in link.messages():
            if host is None:
                host = _Host(link, message)
                await host.start()
            else:
                await host.say_why(host.do(message))
    except asyncio.TimeoutError:
        with contextlib.suppress(OSError):  # stderr may have gone with the link
            print("nothing has been heard from the client's machine: the tasks are ended", file=sys.stderr)
    finally:
        if host:
            host.close()
        end_now(0 if sys.exc_info()[0] is None else 1)  # a thread may still wait for the system's resolver


def shares(tasks, devices, num_gpus):
    """A :class:`~mnistdist.cluster.pinning.Pin` for each of the tasks on this host, which come with the ps first."""
    workers = [job for job, _ in tasks].count("worker")
    if workers:
        found = pinning.assign(len(tasks) - workers, workers, devices=devices, num_gpus=num_gpus)
    else:  # a ps that has a host to itself has its cores too
        found = pinning.assign(0, len(tasks), devices="cpu")
    return dict(zip(tasks, found.values(), strict=True)), pinning.sharing_notice(found)


class _Host:
    """The tasks of this host. ``first`` is the relay's first message: which they are, all addresses, options."""

    def __init__(self, link, first):
        self._link, self._first = link, first
        self._tasks = [tuple(task) for task in first["tasks"]]
        self._pins, self._pids, self._halted, self._sent = {}, {}, set(), {}
        self._running, self._channels = [], itertools.count(1)
        self._folder = new_folder()
        options = {name: first[name] for name in ("spec", "servers", "preload")}
        options |= {"private_hosts": None, "controller": None, "hosts": None}
        try:
            self._keeper, self._socket = start_keeper(self._folder, options)
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise

    async def start(self):
        """Gives the tasks their shares of this host, and looks whether they can have their addresses."""
        reader, self._nursery = await asyncio.open_unix_connection(sock=self._socket)
        await self.say_why(self._prepare())
        for work in self._resolve(), self._hear(reader), self._look():
            self._running.append(asyncio.ensure_future(self.say_why(work)))

    async def say_why(self, work):
        """Awaits it, and tells the relay if it fails; the pipe stays open until the relay closes it."""
        try:
            await work
        except Exception as error:
            self._link.tell(event="failed", reason=str(error) or type(error).__name__)

    async def _prepare(self):
        # In a thread, because the driver of many GPUs may take longer than the link may be silent.
        wanted = self._first["devices"], self._first["num_gpus"]
        self._pins, notice = await asyncio.to_thread(shares, self._tasks, *wanted)
        if notice:
            self._link.tell(event="notice", text=notice)
        for job, index in self._tasks:
            address = self._first["spec"][job][index]
            if why := why_no_port(address):
                raise OSError(f"port {parse_address(address)[1]} is {why}")

    async def _resolve(self):
        for host in hosts_of(self._first["spec"]):
            try:
                await asyncio.get_running_loop().getaddrinfo(host, None)
            except socket.gaierror as error:
                raise OSError(f"{host!r} can't be resolved there: {error.strerror}") from None

    async def _hear(self, reader):
        """Passes the nursery's events on, with what a task's log had before."""
        async for line in reader:
            event = json.loads(line)
            name = event.get("job"), event.get("index")
            if event["event"] == "started":
                self._pids[name] = event["pid"]
                self._halted.discard(name)
                event["device"] = self._pins[name].device
            elif event["event"] == "exited" and self._pids.get(name) == event["pid"]:
                del self._pids[name]
            self._send_logs()
            self._link.tell(**event)
        raise ConnectionError("its keeper or nursery has ended")

    async def _look(self):
        """Tells what tasks write, and when one is stopped or goes on."""
        while True:
            self._send_logs()
            for name, pid in self._pids.items():
                if (halted := is_stopped(pid)) != (name in self._halted):
                    self._halted ^= {name}
                    self._link.tell(event="halted", job=name[0], index=name[1], halted=halted)
            await asyncio.sleep(LOOK)

    def _send_logs(self):
        for path in self._folder.glob("*.log"):
            with contextlib.suppress(OSError), open(path, "rb") as file:
                file.seek(max(self._sent.get(path, 0), os.fstat(file.fileno()).st_size - MOST))
                if text := file.read(MOST):
                    self._link.tell(event="log", name=path.stem, text=text.decode("latin-1"))  # keeps every byte
                self._sent[path] = file.tell()

    async def do(self, request):
        """Does what the client or the relay asks for."""
        if request["do"] == "connect":
            await self._open_sockets(request["info"])
            return
        if request["do"] == "start":
            pin = self._pins[request["job"], request["index"]]
            request |= {"env": pin.env, "cores": pin.cores}
        self._nursery.write(json.dumps(request).encode() + b"\n")

    async def _open_sockets(self, info):
        """Puts sockets in the place of the controller's, and writes the file with which engines find them."""
        base = os.path.join(self._folder, "e")
        for port in engine_ports(info):
            accept = functools.partial(self._accept, port)
            self._running.append(await asyncio.start_unix_server(accept, f"{base}-{port}"))
        file = Path(engines_file(self._folder))
        file.touch(0o600)
        file.write_text(json.dumps(info | {"interface": f"ipc://{base}"}))

    def _accept(self, port, reader, writer):
        channel = next(self._channels)
        self._link.tell(event="open", channel=channel, port=port)
        self._link.carry(channel, reader, writer)

    def close(self):
        """Ends everything on this host, and removes the folder."""
        self._keeper.stdin.close()
        end_keeper(self._keeper)
        shutil.rmtree(self._folder, ignore_errors=True)


if __name__ == "__main__":
    main()
