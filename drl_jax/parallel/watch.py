"""Watching the other processes of a job, so that one that ends early is named by all others.

Without it JAX aborts the others after a while, or an error of its network code says that some process is
gone. Process 0 keeps the connections of the rendezvous open, and each other process keeps its own. The system
closes a connection when its process ends, however it ends. A process that is frozen, or a machine that is
gone, gives no sign of life any more. Process 0 tells the others what it sees.
"""

import json
import selectors
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

from drl_jax.parallel.preemption import EXIT_CODE, Stop
from drl_jax.parallel.rendezvous import Peer

_SIGN_EVERY = 5.0  # seconds
_SILENCE = 60.0  # seconds after which a process counts as lost; JAX would abort the others after about 80
_GRACE = 2.0  # seconds in which this process may find out by itself what ended another one
_RESTART = "checkpoints are kept; start again to continue"


class Watch:
    """A thread that ends this process, with one line, when another process of the job has ended too early.

    Args:
      peers: the others, as the rendezvous returns them.
      stop: decides which thread ends the process.
      delay: seconds that this process waits before it ends.
      silence: seconds without a sign of life after which a process counts as lost.
    """

    def __init__(self, peers: Sequence[Peer], stop: Stop, *, delay: float, silence: float = _SILENCE):
        self._stop, self._delay, self._silence = stop, delay, silence
        self._lock = threading.Lock()  # of sending
        self._left = False
        self._selector = selectors.DefaultSelector()
        for peer in peers:
            peer.connection.settimeout(_SIGN_EVERY)
            self._selector.register(peer.connection, selectors.EVENT_READ, peer)
        threading.Thread(target=self._run, daemon=True).start()

    def leave(self, failure: str | None) -> None:
        """Tells the others that this process ends on purpose.

        Args:
          failure: the line of the error that ends it, after which a restart will not help; None otherwise.
        """
        self._left = True
        self._tell({"end": failure})

    def _run(self) -> None:
        # Time is counted in turns of this loop: a job that is suspended as a whole loses nobody.
        silent = {key.fd: 0.0 for key in self._selector.get_map().values()}
        heard = dict.fromkeys(silent, b"")
        before = sign = time.monotonic()
        while silent:
            for key, _ in self._selector.select(min(1.0, self._silence / 4)):
                silent[key.fd] = 0.0
                connection, peer = key.fileobj, key.data
                assert isinstance(connection, socket.socket)
                try:
                    part = connection.recv(2**16)
                except TimeoutError:
                    continue
                except OSError:
                    part = b""
                *lines, heard[key.fd] = (heard[key.fd] + part).split(b"\n")
                if any(self._on_line(line, peer) for line in lines) or not part:
                    self._selector.unregister(connection)
                    del silent[key.fd], heard[key.fd]
                    if not part:
                        self._end(f"process {peer.index} of the job ({peer.host}) has ended", EXIT_CODE)
            now = time.monotonic()
            for key in list(self._selector.get_map().values()):
                silent[key.fd] += min(now - before, 1.0)
                if silent[key.fd] > self._silence and not self._left:
                    name = f"process {key.data.index} of the job ({key.data.host})"
                    self._end(f"{name} has given no sign of life for {self._silence:g} s", EXIT_CODE)
            before = now
            if now - sign > min(_SIGN_EVERY, self._silence / 4) and not self._left:
                sign = now
                self._tell({})

    def _on_line(self, line: bytes, peer: Peer) -> bool:
        """Reacts to a message; returns whether it is the last one of this process."""
        try:
            message = json.loads(line)
        except ValueError:
            return False
        if "lost" in message:  # process 0 has seen it
            self._end(str(message["lost"]), int(message["code"]), with_rest=False)
        if "end" not in message:
            return False
        if (failure := message["end"]) is not None and not self._left:
            time.sleep(_GRACE)
            self._end(f"process {peer.index} of the job ({peer.host}) has failed: {failure}", 1)
        return True

    def _end(self, line: str, code: int, *, with_rest: bool = True) -> None:
        if self._left:
            return
        if with_rest:
            self._tell({"lost": line, "code": code})
        rest = f"; {_RESTART}" if code == EXIT_CODE else ""
        self._stop.end_process(line + rest, code, self._delay)

    def _tell(self, message: dict[str, object]) -> None:
        data = json.dumps(message).encode() + b"\n"
        with self._lock:
            for key in list(self._selector.get_map().values()):
                assert isinstance(key.fileobj, socket.socket)
                with suppress(OSError):  # who is gone is found by reading
                    key.fileobj.sendall(data)
