"""The self-check at load: does the model, after all that was done to it, still say what it said before?"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from frame_python.handlers.cut_models import cut_model
from frame_python.handlers.fingerprints import cache_folder, load_pass, save_pass
from frame_python.handlers.references import NEW_TOKENS, PROMPT_LENGTHS, Reference, take_reference
from frame_python.handlers.replays import Runner, compare_rows, compare_said, encode_texts
from frame_python.handlers.verdicts import Compared, Report, Tolerance, judge

_log = logging.getLogger(__name__)
BuildRunner = Callable[[Any], Runner]
"""Transforms a model as the one that is to be served, and returns the way it is served in."""


class SelfCheckError(ValueError):
    """The transformed model says something else than the model before.

    Attributes:
        report: what was found.
    """

    def __init__(self, report: Report) -> None:
        super().__init__(f"self-check failed on path {report.path}: {report.reason}")
        self.report = report


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckSettings:
    """How to check.

    Attributes:
        model: its name, for the log.
        path: how the model is transformed, for the log and the error.
        tolerance: what a right transformation may change.
        timeout: seconds for the check.
        key: `fingerprint` of model, libraries and transformation: a pass under it is not repeated; "" to
            repeat it at each start.
        saved_reference: where a reference of the model before may lie, when it is too large for one device.
        is_alone: whether this is the only rank.
        is_first: whether this rank decides and answers. The others only run what it runs.
        share: gives every rank what rank 0 gave; all ranks must call it alike.
        quiet: entered around calls of the model before, on the first rank alone.
    """

    model: str
    path: str
    tolerance: Tolerance
    timeout: float = 60.0
    key: str = ""
    saved_reference: Path | None = None
    is_alone: bool = True
    is_first: bool = True
    share: Callable[[Any], Any] = field(default=lambda value: value)
    quiet: Callable[[], AbstractContextManager[None]] = nullcontext
    cache: Path = field(default_factory=lambda: cache_folder(os.environ))


class SelfCheck:
    """One check of one way to transform a model: `look_before`, transform, `look_after`.

    All ranks of a group call both in this order with the same arguments; rank 0 judges, all get its verdict.
    """

    def __init__(self, settings: CheckSettings) -> None:
        self.report: Report | None = None
        """The verdict; None until there is one."""
        self._settings = settings
        self._clock = _Clock(settings.timeout)
        self._reference: Reference | None = None
        self._texts: list[tuple[list[int], list[int]]] = []
        self._encoded: list[torch.Tensor] = []

    # --- before ---------------------------------------------------------------------------------

    def look_before(
        self, model: Any, *, device: torch.device, fits: bool, build: BuildRunner, max_length: int
    ) -> None:
        """Take the reference of a language model, or check it cut to two layers when it cannot run whole.

        Args:
            model: nothing was done to it yet; it is left as it is, on `device` when `fits`.
            device: where the model before can run.
            fits: whether the whole model does fit there.
            build: how a model becomes what is served; called for the cut model only.
            max_length: positions of a slot.
        """
        with self._clock:
            if self._take_cached():
                return
            new_tokens = min(NEW_TOKENS, max_length - max(PROMPT_LENGTHS))
            if new_tokens < 1:
                self._conclude(Report(result="not_run", reason=f"max_tokens={max_length} is too little"))
                return
            why = self._find_reference(model, device, new_tokens, fits=fits)
            if why:
                self._check_cut(model, device, new_tokens, build, why)

    def _find_reference(self, model: Any, device: torch.device, new_tokens: int, *, fits: bool) -> str:
        """Have the texts on all ranks, the logits on the first; return "", or why there are none."""
        settings, why = self._settings, ""
        if settings.is_first and fits:
            why = "the model before was too slow for it"
            with settings.quiet():
                self._reference = take_reference(
                    model.to(device), device=device, new_tokens=new_tokens,
                    has_time=lambda: self._clock.has_time(0.5),
                )  # fmt: skip
        elif settings.is_first:
            why = "the model before does not fit on one device, and there is no saved reference of it"
            with suppress(OSError):
                saved = settings.saved_reference
                self._reference = None if saved is None else Reference.load(saved)
        self._texts = settings.share([] if self._reference is None else self._reference.texts())
        return str(settings.share(why if self._reference is None else ""))

    def _check_cut(
        self, model: Any, device: torch.device, new_tokens: int, build: BuildRunner, why: str
    ) -> None:
        """Check the first and the last layer alone: transformed and not."""
        settings = self._settings
        try:
            before = cut_model(model)
        except ValueError as error:
            self._conclude(Report(result="not_run", reason=f"{why}, and {error}"))
            return
        if settings.is_first:
            with settings.quiet():
                self._reference = take_reference(
                    cut_model(model).to(device), device=device, new_tokens=new_tokens,
                    has_time=self._clock.has_time,
                )  # fmt: skip
        self._texts = settings.share([] if self._reference is None else self._reference.texts())
        if not self._texts:
            self._conclude(Report(result="not_run", reason=f"{why}, and there was no time for two layers"))
            return
        self._conclude(self._compare(build(before)).reduce(f"two layers: {why}"))

    def look_before_encoder(self, model: Any, *, device: torch.device) -> None:
        """Take the reference of a model that generates nothing: a classifier, an encoder."""
        with self._clock:
            if self._take_cached():
                return
            if self._settings.is_first:
                with self._settings.quiet():
                    self._encoded = encode_texts(model.to(device), device=device)

    # --- after ----------------------------------------------------------------------------------

    def look_after(self, runner: Runner) -> Report:
        """Compare the transformed model as it is served, at the largest batch and at batch 1.

        Raises:
            SelfCheckError: it says something else.
        """
        with self._clock:
            if self.report is None:
                self._conclude(self._compare(runner))
        return self._finish()

    def look_after_encoder(self, model: Any, *, device: torch.device) -> Report:
        """Compare a transformed model that generates nothing.

        Raises:
            SelfCheckError: it says something else.
        """
        with self._clock:
            if self.report is None:
                after = encode_texts(model, device=device)
                compared = [
                    Compared(batch=1, slot=index, positions=tuple(compare_rows(before, said)))
                    for index, (before, said) in enumerate(zip(self._encoded, after, strict=False))
                    if before.shape == said.shape
                ]
                self._conclude(judge(compared, self._settings.tolerance))
        return self._finish()

    def _compare(self, runner: Runner) -> Report:
        """Compare; what alone raises has failed, but of several ranks one that raises ends the group."""
        if not self._settings.is_alone:
            return self._replay(runner)
        try:
            return self._replay(runner)
        except Exception as error:  # noqa: BLE001  # fault line: around a transformed model
            _log.exception("self_check_raised model=%s path=%s", self._settings.model, self._settings.path)
            return Report(result="failed", reason=f"{type(error).__name__}: {error}")

    def _replay(self, runner: Runner) -> Report:
        """Run the largest batch first: what sizes itself by its first call must be sized by the largest."""
        settings, compared = self._settings, list[Compared]()

        def has_time() -> bool:
            return bool(settings.share(self._clock.has_time()))

        for batch in dict.fromkeys((runner.largest, 1)):
            if has_time():
                said = runner.run([self._texts[row % len(self._texts)] for row in range(batch)], has_time)
                compared += [] if self._reference is None else compare_said(self._reference, said)
        report = judge(compared, settings.tolerance)
        is_whole = {sequence.batch for sequence in compared} == {runner.largest, 1}
        if is_whole:
            return report
        return report.reduce(f"its time was over: option.self_check_timeout={settings.timeout:g}")

    # --- the verdict ----------------------------------------------------------------------------

    def _take_cached(self) -> bool:
        settings = self._settings
        found = load_pass(settings.cache, settings.key) if settings.key and settings.is_first else None
        plain = settings.share(None if found is None else found.plain())
        if plain is None:
            return False
        self.report = Report(**{**plain, "path": settings.path})
        return True

    def _conclude(self, report: Report) -> None:
        """Make rank 0's verdict everybody's."""
        plain = self._settings.share(report.plain())
        self.report = Report(**{**plain, "path": self._settings.path})

    def _finish(self) -> Report:
        assert self.report is not None
        settings = self._settings
        self.report = report = replace(self.report, seconds=self._clock.seconds())
        self._reference, self._encoded = None, []
        if settings.is_first:
            _log.log(
                logging.INFO if report.result == "passed" else logging.WARNING,
                "self_check model=%s result=%s tokens=%d seconds=%.2f path=%s reason=%r",
                settings.model, report.result, report.tokens, report.seconds, report.path, report.reason,
            )  # fmt: skip
            if settings.key:
                save_pass(settings.cache, settings.key, report)
        if report.result == "failed":
            raise SelfCheckError(report)
        return report


class _Clock:
    """Counts the seconds inside its `with` blocks."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._used = 0.0
        self._began: float | None = None

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._used, self._began = self.seconds(), None

    def seconds(self) -> float:
        """Return the seconds so far."""
        return self._used + (0.0 if self._began is None else time.monotonic() - self._began)

    def has_time(self, part: float = 1.0) -> bool:
        """Tell whether less than this part of the time-out is over."""
        return self.seconds() < part * self._timeout
