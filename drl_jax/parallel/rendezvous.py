"""Before a job starts: its processes meet, compare what they are about to do, and all get the same answer.

`jax.distributed.initialize` waits for minutes, and then aborts without naming anybody, where a process is
missing, has the number of another, or belongs to another job. It never finds out that two processes run
different commands. So process 0 listens at the job's address before it does, and the others send it one line
of JSON. It listens only until all have come.

    others → 0    {"drl_jax": 1, "rank": 1, "count": 4, "host": "…", "facts": {…}, "failed": null}
    0 → others    {"drl_jax": 1, "heard": true}, and then {"drl_jax": 1, "fault": null, "restart": false, …}

Nothing here imports JAX.
"""

import errno
import json
import os
import selectors
import socket
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from drl_jax.errors import UserError
from drl_jax.parallel.environments import Job

TIMEOUT = "DRL_JAX_JOIN_TIMEOUT"  # the variable: seconds
_DEFAULT_TIMEOUT = 300.0
_PROTOCOL = 1
_MAX_BYTES = 2**20  # of a line
_MAX_STRANGERS = 64  # connections at once that have not said who they are, or the number of processes
_PATIENCE = 10.0  # seconds for such a connection, and until a line says who is missing
_AGAIN = "start again to continue"


class Refused(UserError):
    """The processes of the job do not fit together; all of them end with this line."""


class Missing(Exception):
    """Processes of the job did not come in time. A restart may help."""


class Limits(NamedTuple):
    """How long things may take, in seconds.

    Attributes:
      join: until all processes are here.
      busy: how long process 0 waits for a port that is in use, which the run before may hold.
      strange: how long the others wait while something else answers at the address of process 0.
      grace: how long process 0 waits for the rest after a fault, to tell them too.
    """

    join: float = _DEFAULT_TIMEOUT
    busy: float = 20.0
    strange: float = 30.0
    grace: float = 30.0


@dataclass(frozen=True)
class Peer:
    """Another process of the job, and the connection to it.

    Attributes:
      index: its number.
      host: its machine.
      connection: stays open, so that each learns when the other ends.
    """

    index: int
    host: str
    connection: socket.socket


@dataclass(frozen=True)
class _Member:
    index: int
    count: int
    host: str
    facts: Mapping[str, Any]
    failed: str | None
    connection: socket.socket | None

    @property
    def name(self) -> str:
        return f"process {self.index} ({self.host})"


class _Answer(NamedTuple):
    """A verdict; or none, the reason, and whether something answered that is not process 0."""

    verdict: Mapping[str, Any] | None
    connection: socket.socket | None
    reason: str = ""
    is_strange: bool = False


def limits(environment: Mapping[str, str]) -> Limits:
    """Returns the limits, of which DRL_JAX_JOIN_TIMEOUT sets the first.

    Raises:
      UserError: it is not a positive number.
    """
    text = environment.get(TIMEOUT, str(_DEFAULT_TIMEOUT))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise UserError(f"{TIMEOUT}={text} is not possible: it must be a number of seconds above 0")
    return Limits(seconds)


def meet(job: Job, facts: Mapping[str, Any], limits: Limits, *, failed: str | None = None) -> list[Peer]:
    """Meets the other processes of the job and compares facts. Every process must call this.

    Args:
      job: the job, of at least two processes.
      facts: what must be equal in all processes that know it, by name; JSON.
      limits: how long things may take.
      failed: the line of an error because of which this process cannot start; it is told to the others.

    Returns:
      In process 0 all others, in the others process 0.

    Raises:
      Refused: the processes do not fit together, or one of them cannot start.
      Missing: not all came in time.
    """
    own = _Member(job.index, job.count, socket.gethostname(), facts, failed, None)
    answer = _lead(job, own, limits) if job.index == 0 else _follow(job, own, limits)
    if isinstance(answer, list):
        return answer
    verdict, connection = answer.verdict, answer.connection
    assert verdict is not None
    assert connection is not None
    if (fault := verdict.get("fault")) is None:
        return [Peer(0, str(verdict.get("host")), connection)]
    connection.close()
    raise (Missing if verdict.get("restart") else Refused)(str(fault))


def _lead(job: Job, own: _Member, limits: Limits) -> list[Peer] | _Answer:
    """Process 0: listens until all are here. An answer comes from another process 0 that was first."""
    listener = _listen(job, own, limits)
    if isinstance(listener, _Answer):
        return listener
    with listener, selectors.DefaultSelector() as selector:
        members = _gather(job, own, limits, listener, selector)
    fault = compare(members)
    missing = _missing(members)
    restart = fault is None and bool(missing)
    if restart:
        fault = (
            f"after {limits.join:g} s, {len(missing)} of {job.count} processes have not come to "
            f"{job.address}: {_numbers(missing)}; {_AGAIN}"
        )
    peers = []
    for member in members[1:]:
        connection = member.connection
        assert connection is not None
        connection.settimeout(_PATIENCE)
        with suppress(OSError):  # who is gone now is found by `watch`
            _send(connection, {"fault": fault, "restart": restart, "host": own.host})
        if fault is None:
            peers.append(Peer(member.index, member.host, connection))
        else:
            connection.close()
    if fault is not None:
        raise (Missing if restart else Refused)(fault)
    return sorted(peers, key=lambda peer: peer.index)


def _listen(job: Job, own: _Member, limits: Limits) -> socket.socket | _Answer:
    """Listens at the job's port. Not with SO_REUSEPORT, with which two jobs would share a port."""
    end = time.monotonic() + limits.busy
    while True:
        try:
            if socket.has_dualstack_ipv6():
                return socket.create_server(
                    ("", job.port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024
                )
            return socket.create_server(("", job.port), backlog=1024)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise Refused(
                    f"process 0 of the job cannot listen at port {job.port} ({job.source}): {error.strerror}"
                ) from None
        # Another process may believe that it is process 0: then it listens here and answers.
        answer = _ask(job, own, limits, patience=1.0)
        if answer.verdict is not None:
            return answer
        if time.monotonic() >= end:
            raise Refused(
                f"port {job.port} is in use on {own.host}, and process 0 of the job must listen there "
                f"({job.source}, {job.address}): end the other program or job, or take another port"
            )
        time.sleep(0.3)


def _gather(
    job: Job, own: _Member, limits: Limits, listener: socket.socket, selector: selectors.BaseSelector
) -> list[_Member]:
    """Everybody who has come: all processes, or those until the time was up or a fault was found."""
    listener.setblocking(False)
    selector.register(listener, selectors.EVENT_READ)
    members, unknown = [own], dict[socket.socket, tuple[bytearray, float]]()
    most = max(job.count, _MAX_STRANGERS)
    now = time.monotonic()
    end, remind = now + limits.join, now + _PATIENCE
    if own.failed is not None:
        end = min(end, now + limits.grace)
    while (missing := _missing(members)) and (now := time.monotonic()) < end:
        if now >= remind:
            remind = end
            _say(f"waiting for {len(missing)} of {job.count} processes of the job: {_numbers(missing)}")
        for connection, (_, since) in list(unknown.items()):
            if now - since > _PATIENCE:
                _drop(connection, unknown, selector)
        members = [own, *filter(_is_here, members[1:])]
        for key, _ in selector.select(0.1):
            connection = key.fileobj
            assert isinstance(connection, socket.socket)
            if connection is listener:
                with suppress(OSError):
                    connection, _ = listener.accept()
                    connection.setblocking(False)
                    selector.register(connection, selectors.EVENT_READ)
                    unknown[connection] = (bytearray(), now)
                    if len(unknown) > most:
                        _drop(next(iter(unknown)), unknown, selector)
            elif connection in unknown:
                member = _hear(connection, unknown[connection][0])
                if isinstance(member, _Member):
                    selector.unregister(connection)
                    del unknown[connection]
                    if compare([own, member]) or any(member.index == m.index for m in members):
                        end = min(end, now + limits.grace)
                    members.append(member)
                elif member is None:
                    _drop(connection, unknown, selector)
    for connection in list(unknown):
        _drop(connection, unknown, selector)
    return members


def _hear(connection: socket.socket, heard: bytearray) -> _Member | bool | None:
    """Reads what there is: a member if it is complete, True if not yet, None from a stranger."""
    try:
        part = connection.recv(2**16)
    except (BlockingIOError, InterruptedError):
        return True
    except OSError:
        return None
    heard += part
    if not part or len(heard) > _MAX_BYTES:
        return None
    if not heard.endswith(b"\n"):
        return True if heard.startswith(b"{") else None
    message = _decode(bytes(heard))
    if message is None:
        return None
    index, count, facts, failed = (message.get(name) for name in ("rank", "count", "facts", "failed"))
    if type(index) is not int or type(count) is not int or not isinstance(facts, dict):
        return None
    with suppress(OSError):
        _send(connection, {"heard": True})
    host = str(message.get("host"))[:100]
    return _Member(index, count, host, facts, None if failed is None else str(failed), connection)


def _drop(
    connection: socket.socket, unknown: dict[socket.socket, Any], selector: selectors.BaseSelector
) -> None:
    selector.unregister(connection)
    del unknown[connection]
    connection.close()


def _is_here(member: _Member) -> bool:
    """Whether a member has not hung up; a process that did may come again."""
    connection = member.connection
    assert connection is not None
    try:
        if connection.recv(1, socket.MSG_PEEK) != b"":
            return True
    except (BlockingIOError, InterruptedError):
        return True
    except OSError:
        pass
    connection.close()
    return False


def _follow(job: Job, own: _Member, limits: Limits) -> _Answer:
    """The other processes: ask process 0 until it answers."""
    began = time.monotonic()
    end, remind, strange_since = began + limits.join, began + _PATIENCE, None
    while True:
        answer = _ask(job, own, limits, patience=_PATIENCE)
        now = time.monotonic()
        if answer.verdict is not None:
            return answer
        strange_since = (strange_since or now) if answer.is_strange else None
        if strange_since is not None and now - strange_since >= limits.strange:
            raise Refused(
                f"at {job.address}, where process 0 of the job should listen ({job.source}), another program "
                "or a running job answers: take another port"
            )
        if now >= end:
            raise Missing(
                f"after {limits.join:g} s, process 0 of the job has not come to {job.address}: "
                f"{answer.reason}; {_AGAIN}"
            )
        if now >= remind:
            remind = end
            _say(f"process {job.index} waits for process 0 of the job at {job.address}: {answer.reason}")
        time.sleep(0.1)


def _ask(job: Job, own: _Member, limits: Limits, *, patience: float) -> _Answer:
    """Tells process 0 who this is, and waits for its verdict."""
    try:
        connection = socket.create_connection((job.host, job.port), timeout=patience)
    except OSError as error:
        return _Answer(None, None, error.strerror or str(error))
    try:
        _send(
            connection,
            {
                "rank": own.index,
                "count": own.count,
                "host": own.host,
                "facts": own.facts,
                "failed": own.failed,
            },
        )
        if _receive(connection) is None:
            connection.close()
            return _Answer(None, None, "something else answers there", is_strange=True)
        # It answers when its own time is up, which may have begun later.
        connection.settimeout(limits.join + limits.grace + _PATIENCE)
        verdict = _receive(connection)
        if verdict is not None:
            return _Answer(verdict, connection)
        reason = "process 0 has ended while it waited"
    except TimeoutError:
        connection.close()
        return _Answer(None, None, "something there does not answer", is_strange=True)
    except OSError as error:
        # A program that hangs up at once, such as a web server or the run before.
        connection.close()
        return _Answer(None, None, error.strerror or str(error), is_strange=True)
    connection.close()
    return _Answer(None, None, reason)


def compare(members: Sequence[Any]) -> str | None:
    """Returns one line that says why these processes are not one job; None if nothing speaks against it."""
    own, *others = members
    for member in others:
        if member.count != own.count:
            counts = f"{member.count} processes, and {own.name} to one of {own.count}"
            return f"{member.name} belongs to a job of {counts}"
        if not 0 <= member.index < own.count:
            return f"{member.name} is not possible in a job of {own.count} processes"
    by_index: dict[int, Any] = {}
    for member in members:
        first = by_index.setdefault(member.index, member)
        if first is not member:
            return (
                f"two processes of the job have the number {member.index}, on {first.host} and on "
                f"{member.host}: each of the {own.count} needs its own, from 0 to {own.count - 1}"
            )
    if failed := [member for member in members if member.failed is not None]:
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        return f"{failed[0].name}{more} could not start: {failed[0].failed}"
    different = []
    for name in dict.fromkeys(name for member in members for name in member.facts):
        known = [(m, json.dumps(m.facts[name])) for m in members if name in m.facts]
        if len({text for _, text in known}) < 2:
            continue
        # What most processes have is right; process 0 counts first where there is no majority.
        usual = Counter(text for _, text in known).most_common(1)[0][0]
        one = next(member for member, text in known if text == usual)
        culprits = [(member, text) for member, text in known if text != usual]
        more = f" (and {len(culprits) - 1} more)" if len(culprits) > 1 else ""
        culprit, text = culprits[0]
        different.append(
            f"{name} is {_short(text)} in {culprit.name}{more} and {_short(usual)} in {one.name}"
        )
    if not different:
        return None
    more = f"; and {len(different) - 3} more" if len(different) > 3 else ""
    return f"the processes of the job do not do the same: {'; '.join(different[:3])}{more}"


def _short(text: str) -> str:
    return text if len(text) <= 120 else f"{text[:117]}…"


def _missing(members: Sequence[_Member]) -> list[int]:
    return sorted(set(range(members[0].count)) - {member.index for member in members})


def _numbers(indices: Sequence[int]) -> str:
    """Numbers of processes, as 'process 1' or 'processes 1, 3–7'."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], index]
        else:
            runs.append([index])
    parts = [f"{run[0]}" if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs]
    shown = ", ".join(parts[:20]) + (", …" if len(parts) > 20 else "")
    return f"process{'es' * (len(indices) > 1)} {shown}"


def _send(connection: socket.socket, message: Mapping[str, Any]) -> None:
    connection.sendall(json.dumps({"drl_jax": _PROTOCOL, **message}).encode() + b"\n")


def _receive(connection: socket.socket) -> dict[str, Any] | None:
    """One line of this protocol, byte by byte: nothing after it is lost. None if it is something else."""
    heard = bytearray()
    while not heard.endswith(b"\n"):
        part = connection.recv(1)
        heard += part
        if not part or len(heard) > _MAX_BYTES or not heard.startswith(b"{"):
            return None
    return _decode(bytes(heard))


def _decode(line: bytes) -> dict[str, Any] | None:
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) and message.get("drl_jax") == _PROTOCOL else None


def _say(line: str) -> None:
    with suppress(OSError):
        os.write(sys.stderr.fileno() if sys.stderr else 2, f"drl-jax: {line}\n".encode())
