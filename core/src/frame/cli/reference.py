"""`frame profile --reference`: let an engine save what a model says before anything is done to it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping

from frame.cli.simulate import read_plan
from frame.errors import ConfigError, FrameError
from frame.pool.plan import ModelPlan


class ReferenceFailedError(FrameError):
    """No reference could be taken: the message has the end of what the engine's program wrote."""

    status = 500


def save_reference(model: str, environ: Mapping[str, str]) -> str:
    """Run the engine's program and return what it printed, the file's path for one.

    Raises:
        FrameError: the model's configuration is wrong, its engine takes no reference, or the program failed.
    """
    plan = read_plan(model, {}, environ)
    engine = plan.group.engine
    if engine.reference is None:
        raise ConfigError(f"--reference: engine={engine.name} takes no references")
    return _run(plan, [plan.group.interpreter, *engine.reference(plan.group.path, plan.group.options)])


def _run(plan: ModelPlan, argv: list[str]) -> str:
    limit = plan.config.model_loading_timeout
    try:
        done = subprocess.run(
            argv,
            env={**os.environ, **plan.group.environment},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=limit,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        message = f"{plan.name}: not finished within {limit:g} s (option.model_loading_timeout)"
        raise ReferenceFailedError(message) from error
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        raise ReferenceFailedError(f"{plan.name}: {last[0]}")
    return done.stdout.strip()
