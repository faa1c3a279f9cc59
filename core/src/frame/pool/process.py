"""Start a worker group's process with a private socket, and end it for certain."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frame.contract.engines import LaunchRequest
from frame.pool.bundle import make_bundle
from frame.pool.deaths import Exit
from frame.pool.devices import cut_visible
from frame.pool.environ import worker_environment
from frame.pool.settings import GroupSettings
from frame.worker.__main__ import TOKEN_VARIABLE

_KILL_WAIT = 10.0
"""Seconds until a killed process must be gone; only one stuck in the kernel takes longer."""


@dataclass(slots=True)
class GroupProcess:
    """A started process, the socket it will connect to, and the token it will show."""

    process: asyncio.subprocess.Process
    listener: socket.socket
    socket_path: Path
    token: str

    async def end(self, grace: float) -> Exit:
        """Wait `grace` seconds for the process to exit by itself, then TERM, then KILL."""
        self.close_listener()
        was_forced = False
        for wait, number in ((grace, signal.SIGTERM), (min(2.0, grace), signal.SIGKILL)):
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    return Exit(await self.process.wait(), was_forced)
            was_forced = True
            with suppress(ProcessLookupError):
                self.process.send_signal(number)
        async with asyncio.timeout(_KILL_WAIT):
            return Exit(await self.process.wait(), was_forced)

    @property
    def output(self) -> asyncio.StreamReader:
        """Its stdout and stderr."""
        assert self.process.stdout is not None
        return self.process.stdout

    def kill_children(self) -> None:
        """End what the process left behind in its session.

        Only for groups of one process, never for mpirun's.
        """
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)

    async def reap(self) -> None:
        """Make sure that nothing is left of it. Idempotent."""
        if self.process.returncode is None:
            self.kill()
            await self.process.wait()
        self.close_listener()

    def kill(self) -> None:
        """End the process now."""
        with suppress(ProcessLookupError):
            self.process.kill()

    def close_listener(self) -> None:
        """Stop to listen and remove the socket's file. Idempotent."""
        self.listener.close()
        self.socket_path.unlink(missing_ok=True)


async def start_process(settings: GroupSettings, folder: Path) -> GroupProcess:
    """Start the group's process; `folder` is new, private, and removed by the caller."""
    bundle = make_bundle(folder / "path", settings.engine)
    socket_path = folder / "s"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.setblocking(False)
    listener.bind(str(socket_path))
    listener.listen(8)
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
            arguments=(
                "-m",
                "frame.worker",
                "--connect",
                f"unix:{socket_path}",
                "--parent",
                str(os.getpid()),
            ),
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
    return GroupProcess(process, listener, socket_path, token)


async def first_of(timeout: float, *futures: asyncio.Future[Any]) -> bool:  # asyncio.wait has it
    """Wait until one of the futures is done; False when none is after `timeout` seconds."""
    done, _ = await asyncio.wait(futures, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    return bool(done)
