"""SageMaker's secure mode: what the platform disallows in models that come from untrusted places.

Variables of the platform alone switch it on (`SAGEMAKER_SECURE_MODE`); nothing in a model switches it off.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from frame.config.keys import ARGUMENTS, MODEL_KEYS, UNUSED_MODEL_KEYS
from frame.config.settings import ModelConfig
from frame.contract.engines import EngineSpec
from frame.contract.options import option_keys

CONTROLS = frozenset(
    {
        "DISALLOW_REQUIREMENTS_TXT",
        "DISALLOW_PICKLE_FILES",
        "DISALLOW_TRUST_REMOTE_CODE",
        "DISALLOW_CUSTOM_INFERENCE_SCRIPTS",
        "DISALLOW_CHAT_TEMPLATE",
    }
)
PYTHON_EXECUTABLES = frozenset({"/usr/bin/python3", "/opt/djl/vllm_venv/bin/python"})
"""Interpreters that a model may choose, DJL Serving's list."""
_PICKLES = re.compile(r".*\.(bin|pt|pth|ckpt|pkl|pickle|joblib|jl|cloudpkl|dill)", re.IGNORECASE)
_TEMPLATE_FILES = frozenset({"chat_template.jinja", "chat_template.json"})
_BUILT_IN = "djl_python."
_TRUSTING = {
    "trust_remote_code": "DISALLOW_TRUST_REMOTE_CODE",
    "trust_insecure_model_files": "DISALLOW_PICKLE_FILES",
}
_SCRIPTS = ("model.py", "inference.py", "code/inference.py", "MAR-INF")
"""What handlers import beside a named entry point, too."""
_NEVER = frozenset({"option.env"})
"""Options that would set what workers run with."""


@dataclass(frozen=True, slots=True)
class SecureMode:
    """What is disallowed, and where files are looked at.

    Attributes:
        controls: of `CONTROLS`.
        channels: folders that models come from which are not trusted.
        problems: what is wrong with the variables; nothing is served then.
        entry_point: of models that name none (`DJL_ENTRY_POINT`).
    """

    controls: frozenset[str]
    channels: tuple[Path, ...]
    problems: tuple[str, ...] = ()
    entry_point: str | None = None

    def find(self, config: ModelConfig, spec: EngineSpec, caches: Sequence[Path]) -> tuple[str, ...]:
        """Return why a model is not allowed; blocks on the disk.

        Args:
            caches: what lies below them was extracted or downloaded, and is looked at as channels are.
        """
        if self.problems:
            return self.problems
        found = [*self._options(config, spec), *self._scripts(config), *self._files(config, caches)]
        return tuple(f"{text} (SAGEMAKER_SECURE_MODE)" for text in found)

    def _options(self, config: ModelConfig, spec: EngineSpec) -> Iterator[str]:
        known = {
            *(name for key in MODEL_KEYS for name in (key.name, *key.aliases)),
            *(key.name for key in UNUSED_MODEL_KEYS),
            *ARGUMENTS,
            *(f"option.{key}" for key in option_keys(spec.options)),
        }
        for name, source in config.sources.items():
            is_option = name.startswith("option.") and source.kind != "default"
            if is_option and (name not in known or name in _NEVER):
                yield f"{name} ({source}): may not be set"
        executable = config.pythonExecutable
        if executable is not None and executable not in PYTHON_EXECUTABLES:
            allowed = ", ".join(sorted(PYTHON_EXECUTABLES))
            yield f"option.pythonExecutable={executable}: expected one of {allowed}"
        for key, control in _TRUSTING.items():
            is_off = config.properties.get(key, "false").strip().lower() in {"false", ""}
            if control in self.controls and not is_off:
                yield f"option.{key}: {control}"

    def _scripts(self, config: ModelConfig) -> Iterator[str]:
        folder = Path(config.path)
        yield from self._functions(config)
        if "DISALLOW_REQUIREMENTS_TXT" in self.controls and (folder / "requirements.txt").exists():
            yield "requirements.txt: DISALLOW_REQUIREMENTS_TXT"
        if "DISALLOW_CUSTOM_INFERENCE_SCRIPTS" not in self.controls:
            return
        entry_point = config.properties.get("entryPoint") or self.entry_point
        if entry_point is not None and not entry_point.startswith(_BUILT_IN):
            yield f"option.entryPoint={entry_point}: DISALLOW_CUSTOM_INFERENCE_SCRIPTS"
        named = config.model_file or ""
        own = (f"{folder.name}.py", f"{config.name}.py", *((named,) if named.endswith(".py") else ()))
        scripts = dict.fromkeys((*_SCRIPTS, *own))
        yield from (
            f"{script}: DISALLOW_CUSTOM_INFERENCE_SCRIPTS" for script in scripts if (folder / script).exists()
        )

    def _functions(self, config: ModelConfig) -> Iterator[str]:
        is_given = config.properties.get("functions", "{}") != "{}"
        if is_given and "DISALLOW_CUSTOM_INFERENCE_SCRIPTS" in self.controls:
            yield "functions: DISALLOW_CUSTOM_INFERENCE_SCRIPTS"

    def _files(self, config: ModelConfig, caches: Sequence[Path]) -> Iterator[str]:
        if not self.controls & {"DISALLOW_PICKLE_FILES", "DISALLOW_CHAT_TEMPLATE"}:
            return
        own = [Path(config.path)]
        weights = config.properties.get("model_id")
        if weights is not None:
            own.append(Path(config.path, weights))
        if self.channels:
            own = [folder for folder in own if _is_below(folder, caches)]
        for folder in dict.fromkeys((*self.channels, *own)):
            if not folder.is_dir():
                yield f"{folder}: is no folder, so that its files cannot be looked at"
            for place, _, names in os.walk(folder):
                yield from (text for name in sorted(names) if (text := self._why_not(Path(place, name))))

    def _why_not(self, path: Path) -> str:
        if "DISALLOW_PICKLE_FILES" in self.controls and _PICKLES.fullmatch(path.name):
            return f"{path}: may be a pickle, DISALLOW_PICKLE_FILES; save it as safetensors"
        if "DISALLOW_CHAT_TEMPLATE" in self.controls and _has_template(path):
            return f"{path}: has a chat template, DISALLOW_CHAT_TEMPLATE"
        return ""


def _is_below(folder: Path, places: Sequence[Path]) -> bool:
    real = Path(os.path.realpath(folder))
    return any(real.is_relative_to(os.path.realpath(place)) for place in places)


def _has_template(path: Path) -> bool:
    if path.name in _TEMPLATE_FILES:
        return True
    if path.name != "tokenizer_config.json":
        return False
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return True  # it cannot be looked at
    return not isinstance(settings, dict) or "chat_template" in settings


def read_secure_mode(environ: Mapping[str, str]) -> SecureMode | None:
    """Return what the platform's variables say; None when secure mode is off."""
    if environ.get("SAGEMAKER_SECURE_MODE", "").strip().lower() != "true":
        return None
    given = environ.get("SAGEMAKER_SECURITY_CONTROLS")
    controls = frozenset(_split(given or ""))
    problems = []
    if given is None:
        problems.append("SAGEMAKER_SECURE_MODE=true needs SAGEMAKER_SECURITY_CONTROLS")
    problems += [
        f"SAGEMAKER_SECURITY_CONTROLS: {name} is unknown; there are {', '.join(sorted(CONTROLS))}"
        for name in sorted(controls - CONTROLS)
    ]
    channels = tuple(Path(item) for item in _split(environ.get("SAGEMAKER_UNTRUSTED_CHANNELS", "")))
    return SecureMode(controls, channels, tuple(problems), environ.get("DJL_ENTRY_POINT") or None)


def _split(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]
