"""Start a worker group's process (or its launcher) with a private socket, and end it for certain."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frame.contract.engines import LaunchRequest
from frame.pool.bundle import make_bundle
from frame.pool.deaths import Exit
from frame.pool.devices import cut_visible
from frame.pool.environ import worker_environment
from frame.pool.ranks import RankListener, Ranks
from frame.pool.settings import GroupSettings
from frame.wire.addresses import TcpAddress, UnixAddress
from frame.worker.__main__ import TOKEN_VARIABLE

_TERM_GRACE = 2.0
"""Seconds from TERM to KILL: mpirun ends in 0.6, and leaves its session folder behind when killed."""
_KILL_WAIT = 10.0
"""Seconds until a killed process must be gone; only one stuck in the kernel takes longer."""


@dataclass(slots=True)
class GroupProcess:
    """A started process, the socket it will connect to, and the token it will show."""

    process: asyncio.subprocess.Process
    listener: socket.socket
    socket_path: Path
    ranks: Ranks

    async def end(self, grace: float) -> Exit:
        """Wait `grace` seconds for the process to exit by itself, then TERM, then KILL; ranks end with it."""
        self.close_listener()
        try:
            return await self._end_process(grace)
        finally:
            if self.is_launcher:
                self.ranks.kill()
                await self.ranks.gone()

    async def _end_process(self, grace: float) -> Exit:
        was_forced = False
        for wait, number in ((grace, signal.SIGTERM), (_TERM_GRACE, signal.SIGKILL)):
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    return Exit(await self.process.wait(), was_forced)
            was_forced = True
            if number == signal.SIGKILL:
                self.ranks.kill()
            self._signal(number)
        async with asyncio.timeout(_KILL_WAIT):
            return Exit(await self.process.wait(), was_forced)

    @property
    def is_launcher(self) -> bool:
        """Whether the process is not the worker, but has started the workers."""
        return self.ranks.world_size > 1

    @property
    def output(self) -> asyncio.StreamReader:
        """Its stdout and stderr."""
        assert self.process.stdout is not None
        return self.process.stdout

    def kill_children(self) -> None:
        """End what the process left behind in its process group; mpirun's ranks have their own."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)

    async def reap(self) -> None:
        """Make sure that nothing is left of it. Idempotent."""
        if self.process.returncode is None:
            self.kill()
            await self.process.wait()
        if self.is_launcher:
            self.ranks.kill()
            await self.ranks.gone()
        self.ranks.close()
        self.close_listener()

    def kill(self) -> None:
        """End the process now; of several ranks the ranks, and soon their launcher, which has to clean up."""
        if not self.is_launcher:
            self._signal(signal.SIGKILL)
            return
        self.ranks.kill()
        self._signal(signal.SIGTERM)
        asyncio.get_running_loop().call_later(_TERM_GRACE, self._signal, signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            self.process.send_signal(number)

    def close_listener(self) -> None:
        """Stop to listen and remove the socket's file. Idempotent."""
        self.listener.close()
        self.socket_path.unlink(missing_ok=True)


def open_listener(settings: GroupSettings, socket_path: Path) -> tuple[socket.socket, str]:
    """Return a listening socket and its address: a Unix socket, or a TCP port when ranks run on other hosts.

    Raises:
        OSError: the address is not one of this host.
    """
    if settings.listen_address is not None:
        family = socket.AF_INET6 if ":" in settings.listen_address else socket.AF_INET
        listener = socket.create_server((settings.listen_address, 0), family=family)
        listener.setblocking(False)
        host, port = listener.getsockname()[:2]
        return listener, str(TcpAddress(host, port))
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.setblocking(False)
    listener.bind(str(socket_path))
    listener.listen(max(8, settings.ranks))
    return listener, str(UnixAddress(str(socket_path)))


async def start_process(
    settings: GroupSettings, folder: Path, key: int, rank_listener: RankListener
) -> GroupProcess:
    """Start the process of group `key`; `folder` is new, private, and removed by the caller."""
    bundle = make_bundle(folder / "path", settings.engine)
    socket_path = folder / "s"
    listener, address = open_listener(settings, socket_path)
    token = secrets.token_hex(16)
    environment = worker_environment(
        settings.server_environment, bundle=str(bundle), extra=settings.environment, threads=settings.threads
    )
    environment[TOKEN_VARIABLE] = token
    _, visible = cut_visible(settings.devices, settings.server_environment)
    if visible is not None:
        environment["CUDA_VISIBLE_DEVICES"] = visible
    command = settings.engine.launch(
        LaunchRequest(
            interpreter=settings.interpreter,
            arguments=("-m", "frame.worker", "--connect", address, "--parent", str(os.getpid())),
            environment=environment,
            devices=settings.devices,
            ranks=settings.ranks,
            options=settings.options,
            parent=os.getpid(),
        )
    )
    process = await asyncio.create_subprocess_exec(
        *command.argv,
        env=dict(command.environment),
        cwd=bundle,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    ranks = Ranks(f"{settings.name}:{key}", settings.ranks, token, settings.stall_timeout, rank_listener)
    ranks.keeps_descriptors = settings.passes_answers_on
    return GroupProcess(process, listener, socket_path, ranks)


async def first_within(limit: Callable[[], float], *futures: asyncio.Future[Any]) -> bool:
    """As `first_of`, with a limit that may grow while it waits."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    while (left := started + limit() - loop.time()) > 0:
        if await first_of(left, *futures):
            return True
    return False


async def first_of(timeout: float, *futures: asyncio.Future[Any]) -> bool:  # asyncio.wait has it
    """Wait until one of the futures is done; False when none is after `timeout` seconds."""
    done, _ = await asyncio.wait(futures, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    return bool(done)
