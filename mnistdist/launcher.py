"""The tasks of ``mnistdist run``: a local process for each task, running the program of ``distributed.py``."""

import contextlib
import os
import signal
import subprocess
import threading

from mnistdist._output import OutputLost, complain, say
from mnistdist.cluster import linux
from mnistdist.cluster.recovery import StoppedTasks, to_begin_again
from mnistdist.errors import describe_exit


class Tasks:
    """The running tasks. Their output goes to ours line by line, with the task's name in front."""

    def __init__(self, pins, flags, restarts, wait_timeout, *, restores):
        self._pins, self._flags, self._restarts, self._restores = pins, flags, restarts, restores
        self._patience = 2 * wait_timeout  # a task that waits for a stopped one reports first, and reports more
        self._failure, self._interrupts, self._lost = 0, 0, None
        self._lock = threading.Lock()
        self._processes, self._readers, self._again = {}, [], set()
        signal.signal(signal.SIGINT, self._pass_on)
        signal.signal(signal.SIGTERM, self._pass_on)
        with self._supervised():
            for task in pins:
                self._start(task)

    @contextlib.contextmanager
    def _supervised(self):
        """Ends all tasks if an error ends the block, for instance because a task can't be started."""
        try:
            yield
        except BaseException:
            self._send(signal.SIGKILL)
            raise

    def _start(self, task):
        if self._failure:  # a signal has come, and what is not there need not be ended
            return
        (job, index), pin = task, self._pins[task]
        program = "from mnistdist.distributed import run; run()"
        command = linux.command(program, f"--job_name={job}", f"--task_index={index}", *self._flags)
        env = linux.environment(os.environ) | dict(pin.env) | {"PYTHONUNBUFFERED": "1"}
        files = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        # In a session of its own, so that Ctrl-C reaches this process alone, which passes it on.
        options = {"text": True, "errors": "replace", "env": env, "start_new_session": True}
        process = linux.start(command, cores=pin.cores, **files, **options)
        self._processes[task] = process
        if self._interrupts:  # an interrupt came while this task was being started
            process.send_signal(signal.SIGTERM)
        reader = threading.Thread(target=self._copy, args=(f"{job}:{index}", process.stdout))
        reader.start()
        self._readers.append(reader)

    def _copy(self, name, lines):
        for line in lines:  # to its end, or the task would block
            with self._lock:
                try:
                    if self._lost is None:
                        say(f"[{name}] {line}", end="")
                except OutputLost as error:
                    self._lost = error

    def _pass_on(self, number, frame):
        self._interrupts += 1
        if not self._failure:
            self._failure = 128 + number
        self._send(signal.SIGKILL if self._interrupts > 1 else signal.SIGTERM)

    def _send(self, number):
        for process in self._processes.values():
            if process.poll() is None:
                process.send_signal(number)
                process.send_signal(signal.SIGCONT)  # because a stopped one would not hear it

    def wait(self):
        """Waits for the end of all tasks and returns the exit status; the first task that fails ends the rest.

        Raises :class:`OutputLost` if the tasks' output could not be written, which also ends them.
        """
        left, stopped = dict(self._processes), StoppedTasks(self._patience)
        with self._supervised():
            while left:
                if self._lost and not self._failure:  # the tasks would train for nobody
                    self._failure = self._lost.status
                    self._send(signal.SIGTERM)
                for job, index in stopped.find({task: process.pid for task, process in left.items()}):
                    why = f"has been stopped for {self._patience:g} s, as SIGSTOP does it: it is ended"
                    complain(f"mnistdist run: {job}:{index} {why}")
                    left[job, index].kill()
                for task, process in list(left.items()):
                    if left.get(task) is not process:  # it has been started again in this very round
                        continue
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        status = process.wait(timeout=0.1 / len(left))
                        del left[task]
                        if status and not self._failure:
                            self._replace(task, status, left)
                if not any(job == "worker" for job, _ in left):
                    for task in self._again & set(left):  # a ps to which no worker will ever speak
                        left[task].terminate()
        for reader in self._readers:
            reader.join()
        if self._lost:
            raise self._lost
        return self._failure

    def _replace(self, task, status, left):
        """A task has failed: starts it again, or ends all others, or does neither if nobody needs it."""
        ended = f"{task[0]}:{task[1]} ended with {describe_exit(status)}"
        finished = [each for each in self._processes if self._processes[each].poll() == 0]
        workers = [each for each in self._pins if each[0] == "worker"]
        if not (again := to_begin_again(task, workers, finished, restores=self._restores)):
            return
        if task[0] == "worker" and any(job == "ps" for job, _ in finished):
            why = ", and the ps before it: the training is over"
        elif self._restarts:
            self._restarts -= 1
            complain(f"mnistdist run: {ended}: started again")
            for each in again:
                self._start(each)
            if not self._failure:
                self._again.update(again)
                left.update((each, self._processes[each]) for each in again)
            return
        else:
            why = ": the other tasks are ended"
        complain(f"mnistdist run: {ended}{why}")
        self._failure = status if status > 0 else 128 - status
        self._send(signal.SIGTERM)
