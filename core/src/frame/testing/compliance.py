"""What every engine must do, as a pytest class that an engine's author derives from.

Needs pytest. See docs/writing-an-engine.md.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar

import pytest

from frame.contract.engines import EngineSpec, FolderListing, one_rank
from frame.contract.options import OptionError, parse_options
from frame.contract.requests import Request
from frame.plugins import GROUP, load_plugins
from frame.store.detection import claim_of
from frame.store.folders import list_files
from frame.testing.comparing import difference, value_of
from frame.testing.requests import body_request
from frame.testing.workbench import Answered, Workbench, WorkbenchError, run_cycles

FRAMEWORKS = frozenset(
    {
        "numpy", "torch", "tensorflow", "onnxruntime", "transformers", "sklearn", "xgboost", "lightgbm",
        "openvino", "mxnet", "jax", "vllm", "deepspeed", "cupy", "scipy", "pandas",
    }
)  # fmt: skip
"""What takes long to import, and has no place in the router."""
_BATCH = 8
_GOOD = range(200, 300)


@dataclass(slots=True)
class _Opened:
    """What the tests of a class share; closed with the stack."""

    stack: ExitStack = field(default_factory=ExitStack)
    bench: Workbench | None = None
    alone: list[Answered] = field(default_factory=list)


class EngineCompliance:
    """Tests of one engine on one model.

    Derive a class whose name begins with `Test`, and override the fixtures `engine`, `model_dir` and
    `requests`. Standard tests may be overridden only with `pytest.mark.xfail(reason=…)`.

    Attributes:
        settings: more keys of serving.properties for the model.
        two_ranks: those that make a group of two ranks here; None: its groups are single processes.
        tolerance: by how much numbers of a batch may differ from a request's alone, absolutely or relatively.
        timeout: seconds for a load, and for an answer.
    """

    settings: ClassVar[Mapping[str, str]] = {}
    two_ranks: ClassVar[Mapping[str, str] | None] = None
    tolerance: ClassVar[float] = 1e-4
    timeout: ClassVar[float] = 120.0

    def __init_subclass__(cls, **more: Any) -> None:
        """Refuse to let a standard test be left out in silence."""
        super().__init_subclass__(**more)
        for name, own in vars(cls).items():
            if name.startswith("test_") and hasattr(EngineCompliance, name) and not _has_reason(own):
                mark = "mark it with pytest.mark.xfail(reason=…)"
                raise TypeError(f"{cls.__name__}.{name} overrides a standard test: {mark}")

    # --- what an author says ------------------------------------------------------------------

    @pytest.fixture
    def engine(self) -> str:
        """The engine's name."""
        raise NotImplementedError("override the fixture `engine`: the engine's name")

    @pytest.fixture
    def model_dir(self) -> Path:
        """A folder with a small model."""
        raise NotImplementedError("override the fixture `model_dir`: a folder with a small model")

    @pytest.fixture
    def requests(self) -> Sequence[Request]:
        """At least three good requests with different answers; `json_request` and others make them."""
        raise NotImplementedError(
            "override the fixture `requests`: three good requests with different answers"
        )

    @pytest.fixture
    def malformed(self) -> Request:
        """A request that the model cannot read."""
        return body_request(b'{"inputs": [1, ', "application/json", id="malformed")

    # --- what follows from it -----------------------------------------------------------------

    @pytest.fixture
    def spec(self, engine: str) -> EngineSpec:
        """The engine, as its plugin declares it."""
        plugins = load_plugins()
        for found in plugins.engines:
            if engine.lower() in {found.name.lower(), *(alias.lower() for alias in found.aliases)}:
                return found
        broken = "; ".join(f"{item.name}: {item.reason}" for item in plugins.broken)
        known = ", ".join(sorted(found.name for found in plugins.engines))
        raise LookupError(
            f"no engine {engine} is installed; there are {known}. Broken plugins: {broken or 'none'}"
        )

    @pytest.fixture(scope="class")
    @classmethod
    def opened(cls) -> Iterator[_Opened]:
        """What all tests of the class share."""
        opened = _Opened()
        with opened.stack:
            yield opened

    @pytest.fixture
    def bench(self, opened: _Opened, engine: str, model_dir: Path) -> Workbench:
        """The model in a worker of its own, in batches of up to eight."""
        if opened.bench is None:
            opened.bench = opened.stack.enter_context(self.open_bench(engine, model_dir))
        return opened.bench

    @pytest.fixture
    def alone(self, opened: _Opened, bench: Workbench, requests: Sequence[Request]) -> list[Answered]:
        """The answers to `requests`, each asked alone."""
        if not opened.alone:
            opened.alone = bench.ask_in_turn(*requests)
        return opened.alone

    def open_bench(self, engine: str, model_dir: Path, **settings: str) -> Workbench:
        """Return a bench of the model that is not open yet."""
        given = {**self.settings, **settings}
        return Workbench(model_dir, engine=engine, settings=given, batch_size=_BATCH, timeout=self.timeout)

    # --- the plugin ---------------------------------------------------------------------------

    def test_declaring_imports_no_framework(self, spec: EngineSpec) -> None:
        """The router imports the plugin: it must stay small, and start fast."""
        points = [point.value for point in entry_points(group=GROUP)]
        names = sorted({value.partition(":")[0] for value in points})
        program = (
            "import json, sys, importlib\n"
            "from frame.plugins import load_plugins\n"
            "plugins = load_plugins()\n"
            "print(json.dumps([sorted(sys.modules), [item.name for item in plugins.engines]]))\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
        )
        modules, engines = json.loads(done.stdout)
        assert spec.name in engines, f"{spec.name} is not declared by any of {names}"
        own = {name.partition(".")[0] for name in spec.requires}
        loaded = sorted((FRAMEWORKS | own) & set(modules))
        assert not loaded, f"declaring the engine imports {', '.join(loaded)}"

    def test_unknown_options_are_refused(self, spec: EngineSpec) -> None:
        """A misspelt option must not be ignored."""
        if spec.open_options:
            pytest.skip("open_options: its handlers take any option")
        with pytest.raises(OptionError):
            parse_options(spec.options, {"surely_no_such_option": "1"})

    def test_the_model_is_recognised(self, spec: EngineSpec, model_dir: Path) -> None:
        """A folder needs no `engine=` line, unless it has one; who claims nothing must be named."""
        listing = _listing(model_dir)
        if (named := listing.properties.get("engine")) is not None:
            assert named.lower() in {spec.name.lower(), *(alias.lower() for alias in spec.aliases)}
            return
        claim = claim_of(spec, listing)
        claims_something = (
            bool(spec.claims) or spec.detect is not type(spec).__dataclass_fields__["detect"].default
        )
        if not claims_something:
            assert claim is None
            return
        assert claim is not None, (
            f"{spec.name} does not recognise {sorted(path.name for path in model_dir.iterdir())}"
        )
        assert claim.reason, "a claim says why"
        if claim.model_file is not None:
            assert (model_dir / claim.model_file).exists()

    def test_an_empty_folder_is_nobodys(
        self, spec: EngineSpec, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        """An engine claims what it can load, and nothing else."""
        folder = tmp_path_factory.mktemp("empty")
        assert claim_of(spec, _listing(folder)) is None
        (folder / "README.md").write_text("no model")
        assert claim_of(spec, _listing(folder)) is None

    # --- answers ------------------------------------------------------------------------------

    def test_good_requests_are_answered(self, alone: list[Answered]) -> None:
        """Every request is good, and no two answers are the same."""
        assert len(alone) >= 3, "give three requests or more"  # noqa: PLR2004
        for answer in alone:
            assert answer.status in _GOOD, (answer.status, answer.message, answer.body[:500])
            assert answer.is_whole, "the stream broke off"
        assert len({answer.body for answer in alone}) == len(alone), (
            "requests with equal answers show no mix-up"
        )

    def test_the_same_request_has_the_same_answer(
        self, bench: Workbench, requests: Sequence[Request], alone: list[Answered]
    ) -> None:
        """A model answers what it is asked, whatever it was asked before; choices come from the seed."""
        again = bench.ask_in_turn(*requests)
        for first, second in zip(alone, again, strict=True):
            self.check_equal(first, second)

    def test_batches_answer_as_requests_alone(
        self, bench: Workbench, requests: Sequence[Request], alone: list[Answered]
    ) -> None:
        """Whatever came together: each has its own answer, in order."""
        for order in (list(range(len(requests))), list(reversed(range(len(requests)))), [0, 0, 1, 2, 1]):
            together = bench.ask(*(replace(requests[index], id=f"{index}") for index in order))
            for index, answer in zip(order, together, strict=True):
                self.check_equal(alone[index], answer)

    def test_a_malformed_request_fails_alone(
        self, bench: Workbench, requests: Sequence[Request], alone: list[Answered], malformed: Request
    ) -> None:
        """One client's mistake is not another's."""
        first, wrong, *others = bench.ask(requests[0], malformed, *requests[1:])
        assert 400 <= wrong.status < 500, (wrong.status, wrong.body[:500])  # noqa: PLR2004
        for expected, answer in zip(alone, [first, *others], strict=True):
            self.check_equal(expected, answer)
        (answer,) = bench.ask(requests[0])
        self.check_equal(alone[0], answer)

    def test_overlapping_batches_answer_as_requests_alone(
        self, engine: str, model_dir: Path, requests: Sequence[Request], alone: list[Answered]
    ) -> None:
        """A model that says that its copy may be shared is asked by several threads at once."""
        with self.open_bench(engine, model_dir, batch_size="1", minWorkers="3", maxWorkers="3") as bench:
            for _ in range(5):
                for expected, answer in zip(alone, bench.ask(*requests), strict=True):
                    self.check_equal(expected, answer)

    def test_streams_end_when_their_client_goes(
        self, bench: Workbench, requests: Sequence[Request], alone: list[Answered]
    ) -> None:
        """What nobody waits for is given up, and disturbs nobody."""
        for request in requests:
            assert bench.leave_stream(request) in _GOOD
        for expected, answer in zip(alone, bench.ask(*requests), strict=True):
            self.check_equal(expected, answer)

    def check_equal(self, expected: Answered, found: Answered) -> None:
        """Hold that two answers are equal, but for the last digits of numbers."""
        assert (found.status, found.is_whole) == (expected.status, expected.is_whole), (
            found.message,
            found.body[:500],
        )
        assert found.content_type == expected.content_type
        if found.body != expected.body:
            where = difference(value_of(expected), value_of(found), self.tolerance)
            assert where is None, f"answers differ at {where}: {expected.body[:200]!r}, {found.body[:200]!r}"

    # --- life ---------------------------------------------------------------------------------

    def test_it_stays_on_its_device(self, bench: Workbench, alone: list[Answered]) -> None:
        """A model on the CPU opens no GPU, whatever there is."""
        assert alone
        for pid in bench.pids:
            found = _opened_files(pid)
            assert not [path for path in found if path.startswith("/dev/nvidia")], found

    def test_closing_twice_leaves_nothing(self, bench: Workbench, requests: Sequence[Request]) -> None:
        """Loading and closing again and again leaves no further thread and no descriptor."""
        first, *_, last = run_cycles(bench, requests)
        for what in ("threads", "descriptors"):
            assert last[what] <= first[what], (
                f"{what}: {first[what]} after the first cycle, {last[what]} after the last"
            )

    def test_a_killed_worker_comes_back(
        self, engine: str, model_dir: Path, requests: Sequence[Request], alone: list[Answered]
    ) -> None:
        """A request that meets a dead worker is answered by the next one."""
        with self.open_bench(engine, model_dir) as bench:
            before = bench.pids
            bench.kill()
            for expected, answer in zip(alone, bench.ask_in_turn(*requests), strict=True):
                self.check_equal(expected, answer)
            assert not set(before) & set(bench.pids)

    def test_a_model_that_is_broken_says_so(
        self, engine: str, model_dir: Path, spec: EngineSpec, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        """A model file of the wrong content fails to load, with a reason, and within the time."""
        claim = claim_of(spec, _listing(model_dir))
        if claim is None or claim.model_file is None:
            pytest.skip("it names no model file")
        broken = tmp_path_factory.mktemp("broken")
        _link_all(model_dir, broken)
        file = broken / claim.model_file
        if file.is_dir():
            pytest.skip("its model is a folder")
        file.unlink()
        file.write_bytes(b"this is no model\n" * 10)
        with pytest.raises(WorkbenchError) as failed, self.open_bench(engine, broken):
            pass
        assert str(failed.value).strip()

    def test_two_ranks_answer_as_one(
        self,
        engine: str,
        model_dir: Path,
        spec: EngineSpec,
        requests: Sequence[Request],
        alone: list[Answered],
    ) -> None:
        """A group of two processes is one worker."""
        if self.two_ranks is None:
            assert spec.ranks is one_rank, "the engine has groups of several ranks: set `two_ranks`"
            pytest.skip("its groups are single processes")
        with self.open_bench(engine, model_dir, **self.two_ranks) as bench:
            assert len(bench.pids) == 2  # noqa: PLR2004
            for expected, answer in zip(alone, bench.ask(*requests), strict=True):
                self.check_equal(expected, answer)


def _has_reason(test: object) -> bool:
    marks = getattr(test, "pytestmark", [])
    return any(mark.name == "xfail" and mark.kwargs.get("reason") for mark in marks)


def _listing(folder: Path) -> FolderListing:
    properties: dict[str, str] = {}
    file = folder / "serving.properties"
    if file.exists():
        from frame.config.files import read_properties  # noqa: PLC0415

        properties = {item.key: item.value for item in read_properties(file, file.name)}
    return FolderListing(name=folder.name, files=list_files(folder), properties=properties)


def _link_all(source: Path, target: Path) -> None:
    for path in source.iterdir():
        if path.is_dir():
            (target / path.name).mkdir()
            _link_all(path, target / path.name)
        else:
            (target / path.name).symlink_to(path)


def _opened_files(pid: int) -> list[str]:
    paths = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # it was closed meanwhile
            paths.append(str(descriptor.readlink()))
    return paths
