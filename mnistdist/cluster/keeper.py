"""The keeper of a cluster's processes: it waits for the client's end, then ends everything and removes the folder."""

import json
import os
import shutil
import signal
import subprocess
import sys

from mnistdist.cluster import forkserver, linux


def main():
    """The keeper's entry. Its argument is a JSON object (see ``Processes._launch``); its stdin ends with the client."""
    settings = json.loads(sys.argv[1])
    linux.prctl(linux.ADOPT_ORPHANS, 1)
    over, group = [], 0  # it is over when the client says so, also by SIGTERM
    signal.signal(signal.SIGTERM, lambda *_: over.append(True))
    client, keeper = os.getppid(), os.getpid()

    def join_group(fatal=signal.SIGKILL):
        os.setpgid(0, group)
        linux.die_with(keeper, fatal)

    try:
        with linux.child_exits(0) as wait:
            if settings["controller"]:  # a host has none
                with open(os.path.join(settings["folder"], "controller.log"), "wb") as log:
                    files = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
                    group = subprocess.Popen(settings["controller"], preexec_fn=join_group, **files).pid
            serve = forkserver.serve
            if settings["hosts"]:
                from mnistdist.cluster.relay import serve  # here, because it takes long to import
            nursery = os.fork()
            if nursery == 0:
                linux.run_forked(lambda: (join_group(signal.SIGTERM), serve(settings)))
            vital = {nursery, group or nursery}
            if not group:
                os.setpgid(nursery, group := nursery)  # here too, as it may be ended before it has done so
            os.close(settings["socket"])
            # The client is gone when its end of stdin is closed, or when this process has another parent, because a
            # copy of that end may live on in a process that the client forked. Losing the controller or the nursery
            # ends the cluster too. Other children are what tasks have left behind, and may end at any time.
            while os.getppid() == client and not over:
                hung_up, ended = wait(timeout=1)
                if hung_up:
                    over.append(True)
                elif vital & {pid for pid, _ in ended}:
                    break
            if settings["hosts"]:  # what is there is in no group of this machine's
                linux.end_gently(nursery, 3)
    finally:
        linux.end_group(group)
        if over or os.getppid() != client:  # otherwise the client reads why, and removes the folder itself
            shutil.rmtree(settings["folder"], ignore_errors=True)
