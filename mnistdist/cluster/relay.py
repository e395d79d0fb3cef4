"""The relay of a cluster on several hosts: it reaches each one, and is to the client what the nursery is otherwise.

It takes the nursery's place below the keeper of the client's machine. The client's requests go to the agent of the host
that has the task, and the agents' events to the client. What tasks log is written to the files that the client reads.
When the relay ends, or the keeper ends it, the pipes to the agents close, and with each pipe the host's tasks end.
"""

import asyncio
import contextlib
import functools
import json
import os
import signal
import socket
from asyncio.subprocess import PIPE

from mnistdist.cluster import linux
from mnistdist.cluster._ipyparallel import engines_file, read_connection_file
from mnistdist.cluster.link import GREETING, SILENCE, Link, versions
from mnistdist.cluster.task import redirect_output
from mnistdist.errors import describe_exit

FAREWELL = 2  # seconds that the agents may take to end everything
AGAIN = "see how it is and what lies between; then stop() the cluster and start() it again"


class HostLost(Exception):
    """A host can't be used. The arguments are what is wrong with it and what to do."""


def serve(settings):
    """Passes requests and events on until the client closes its socket, a host is lost, or SIGTERM comes."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    redirect_output(os.path.join(settings["folder"], "nursery.log"))
    asyncio.run(_serve(settings))


async def _serve(settings):
    reader, client = await asyncio.open_unix_connection(sock=socket.socket(fileno=settings["socket"]))
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    first = {name: settings[name] for name in ("spec", "servers", "preload")}
    first |= {name: settings["hosts"][name] for name in ("devices", "num_gpus")}
    hosts = [_Host(host, about, settings["folder"], client) for host, about in settings["hosts"]["each"].items()]
    tasks = []
    try:
        await asyncio.gather(*(host.reach(first) for host in hosts))
        ends = [over.wait(), _pass_on(reader, hosts), *(host.attend() for host in hosts)]
        tasks = [asyncio.ensure_future(each) for each in (_introduce(settings["folder"], hosts), *ends)]
        done, _ = await asyncio.wait(tasks[1:], return_when=asyncio.FIRST_COMPLETED)
        for each in done:
            each.result()
    finally:
        for each in tasks:
            each.cancel()  # first, because that other hosts end now is no news
        await asyncio.gather(*(host.leave() for host in hosts))


async def _pass_on(reader, hosts):
    """Sends each of the client's requests to the host that has the task."""
    with_task = {tuple(task): host for host in hosts for task in host.tasks}
    async for line in reader:
        request = json.loads(line)
        with_task[request["job"], request["index"]].link.tell(**request)


async def _introduce(folder, hosts):
    """Tells the hosts how engines connect to the controller, when that has come up."""
    while not (info := read_connection_file(engines_file(folder))):
        await asyncio.sleep(0.02)
    for host in hosts:
        host.link.tell(do="connect", info=info)


class _Host:
    """One host: the process that reaches it, and the link to its agent."""

    def __init__(self, name, about, folder, client):
        self._name, self._folder, self._client = name, folder, client
        self._command, self.tasks, self._log = about["command"], about["tasks"], about["log"]
        self._process = self.link = None

    async def reach(self, first):
        """Starts the command, whose errors go to the host's log, and sends the agent's first message."""
        tie = functools.partial(linux.die_with, os.getpid())
        with open(self._path(self._log), "ab") as log:
            start = asyncio.create_subprocess_exec
            self._process = await start(*self._command, stdin=PIPE, stdout=PIPE, stderr=log, preexec_fn=tie)
        self.link = Link(self._process.stdout, self._process.stdin)
        self.link.tell(tasks=self.tasks, **first)

    async def attend(self):
        """Hears what the agent says for as long as it lives; tells the client why that is over."""
        try:
            await self._greet()
            self._tell(event="reached", host=self._name)
            self.link.start_to_beat()
            async for message in self.link.messages():
                await self._hear(message)
            raise HostLost(f"the link to its agent has closed ({await self._how_ended()})", AGAIN)
        except asyncio.TimeoutError:
            self._fail(f"nothing has been heard from it for {SILENCE} s", AGAIN)
        except HostLost as error:
            self._fail(*error.args)

    async def _greet(self):
        """Waits for the agent's first line, and compares its versions with those here."""
        while line := await self._process.stdout.readline():
            _, found, said = line.partition(GREETING)
            if found:
                break
            self._write(self._log, line)  # by a shell's start-up file, say
        else:
            raise HostLost(*await self._why_no_agent())
        try:
            here, there = versions(), json.loads(said)
        except ValueError:
            raise HostLost("its first line can't be read", "the log lines say what it has written") from None
        for what in "mnistdist", "Python":
            if here[what] != there[what]:
                cure = f"install {what} {here[what]} there, or name an interpreter that has it: Cluster(python=...)"
                raise HostLost(f"it has {what} {there[what]}, and this machine has {here[what]}", cure)
        if not there["TensorFlow"]:
            raise HostLost(
                "it has no TensorFlow", "install it there, or name an interpreter that has it: Cluster(python=...)"
            )

    async def _why_no_agent(self):
        """What is wrong and what to do, by the words of the command that should have started the agent."""
        ended = await self._how_ended()
        *reach, python, _, _ = self._command
        with open(self._path(self._log), errors="replace") as file:
            said = file.read()
        if "No module named" in said:
            cure = f"install mnistdist {versions()['mnistdist']} there, or name the interpreter that has it"
            return f"{python} has no such mnistdist there", f"{cure}: Cluster(python=...)"
        if python in said and ("No such file" in said or "not found" in said):
            return f"{python} can't be run there", "name the interpreter there: Cluster(python=...)"
        tried = " ".join(reach)
        return f"`{tried}` has not reached it ({ended})", f"try `{tried} true` in a terminal until it works"

    async def _how_ended(self):
        try:
            return describe_exit(await asyncio.wait_for(self._process.wait(), 1))
        except asyncio.TimeoutError:
            return "the command that reached it still runs"

    async def _hear(self, message):
        if message["event"] == "open":
            await self._open(message["channel"], f"{self._folder}/e-{message['port']}")
        elif message["event"] == "log":
            own = message["name"] in ["{}-{}".format(*task) for task in self.tasks]
            self._write(message["name"] if own else self._log, message["text"].encode("latin-1"))
        elif message["event"] == "failed":
            raise HostLost(message["reason"], "put that right there; then stop() the cluster and start() it again")
        else:
            self._tell(**message, host=self._name)

    async def _open(self, channel, path):
        """Connects a channel with a socket of the controller's."""
        try:
            reader, writer = await asyncio.open_unix_connection(path)
        except OSError:
            self.link.close(channel)
            return
        self.link.carry(channel, reader, writer)

    def _tell(self, **event):
        self._client.write(json.dumps(event).encode() + b"\n")

    def _fail(self, reason, hint):
        self._tell(event="failed", reason=f"host {self._name}: {reason}", hint=hint, log=self._log)

    def _path(self, log):
        return os.path.join(self._folder, f"{log}.log")

    def _write(self, log, content):
        with contextlib.suppress(OSError), open(self._path(log), "ab") as file:  # without a log, all goes on
            file.write(content)

    async def leave(self):
        """Closes the pipe, and waits for the end of what is at the other end of it, but not for ever."""
        if self._process:
            self._process.stdin.close()
            try:
                await asyncio.wait_for(self._process.wait(), FAREWELL)
            except asyncio.TimeoutError:
                self._process.kill()
