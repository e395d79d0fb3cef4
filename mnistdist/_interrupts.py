"""Interrupts (SIGINT) that come while processes start or end, and take effect where that does no harm."""

import signal
import threading


class HeldInterrupts:
    """Holds interrupts back while its ``with`` block runs, and raises one that is left at its end.

    Otherwise an interrupt could strike between any two operations: in the middle of a message, with a lock held, or in
    the very code that tidies up after an earlier interrupt. The block calls ``held()`` where an interrupt does no harm.
    That raises the interrupt that has come meanwhile; with ``patience=2``, only after a second one. Only the main
    thread receives interrupts. In other threads, and where interrupts are ignored or fatal, none is held back.
    """

    def __init__(self, patience=1):
        self._patience, self._noted, self._before = patience, 0, None

    def __enter__(self):
        before = signal.getsignal(signal.SIGINT)
        if callable(before) and threading.current_thread() is threading.main_thread():
            outer = getattr(before, "__self__", None)  # this block is in another one
            self._strike = outer._strike if isinstance(outer, HeldInterrupts) else before
            self._before = before
            signal.signal(signal.SIGINT, self._note)
        return self

    def _note(self, *_):
        self._noted += 1

    def __call__(self):
        if self._noted >= self._patience:
            self._noted = 0
            self._strike(signal.SIGINT, None)  # Python's own handler raises KeyboardInterrupt

    def __exit__(self, kind, *_):
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            if self._noted and kind is not KeyboardInterrupt:
                signal.raise_signal(signal.SIGINT)
