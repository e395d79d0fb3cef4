"""Waiting with a limit: for an answer that changes, and for a call that may never return."""

import queue
import threading
import time
from concurrent import futures

_idle = []


def poll(seconds, ask, every=0.05):
    """Asks at intervals until the answer is true, and returns it; returns the last answer when the time is over."""
    end = time.monotonic() + seconds
    while not (answer := ask()) and (left := end - time.monotonic()) > 0:
        time.sleep(min(every, left))
    return answer


class _Runner(threading.Thread):
    """A thread that makes one call after the other, because starting one for each call would take longer."""

    def __init__(self):
        super().__init__(daemon=True, name="limited call")
        self.calls = queue.SimpleQueue()
        self.start()

    def run(self):
        while True:
            outcome, function = self.calls.get()
            try:
                tell, what = outcome.set_result, function()
            except BaseException as error:
                tell, what = outcome.set_exception, error
            _idle.append(self)
            tell(what)
            del outcome, function, tell, what  # or what they hold would live until the next call


def _runner():
    while True:
        try:
            runner = _idle.pop()
        except IndexError:
            return _Runner()
        if runner.is_alive():  # it is not in a process that was forked off
            return runner


def within(seconds, function, complaint):
    """What ``function()`` returns or raises; after ``seconds``, ``TimeoutError(complaint)`` while it goes on."""
    outcome = futures.Future()
    _runner().calls.put((outcome, function))
    try:
        return outcome.result(seconds)
    except futures.TimeoutError:
        if not outcome.done():
            raise TimeoutError(complaint) from None
        return outcome.result()  # it has come at the last moment, or is an error of the function's own
