"""What the TorchScript engine claims, reads and refuses before any model runs."""

from __future__ import annotations

import pickle
import zipfile

import pytest
import torch
from frame.api import EngineContext, FileEntry, FolderListing, ModelSpec
from frame_torchscript.archives import identify
from frame_torchscript.declared import DeclaredTensor, parse_tensors
from frame_torchscript.engine import TorchScriptEngine
from frame_torchscript.options import TorchScriptOptions
from frame_torchscript.plugin import frame_engines
from frame_torchscript.traced import traced_inputs

[SPEC] = frame_engines()


def listing(*paths: str, name: str = "m") -> FolderListing:
    return FolderListing(name=name, files=tuple(FileEntry(p, 1) for p in paths), properties={})


@pytest.mark.parametrize("name", ["net.pt", "net.pt2", "net.jit", "net.torchscript"])
def test_own_suffixes_are_claimed_as_weights(name):
    claim = SPEC.detect(SPEC, listing(name))
    assert (claim.strength, claim.model_file) == (50, name)


def test_pth_is_claimed_weakly_and_only_without_an_own_suffix():
    assert SPEC.detect(SPEC, listing("m.pth")).strength == 30
    assert SPEC.detect(SPEC, listing("m.pth", "other.pt")).model_file == "other.pt"
    assert SPEC.detect(SPEC, listing("pytorch_model.bin", "sub/x.pt")) is None


def test_declared_tensors_are_parsed():
    assert parse_tensors(
        "ids:int64[-1, 128], mask : bool , scale:float32[], x, sr=16000", "option.inputs"
    ) == (
        DeclaredTensor(name="ids", dtype="int64", shape=(-1, 128)),
        DeclaredTensor(name="mask", dtype="bool"),
        DeclaredTensor(name="scale", dtype="float32", shape=()),
        DeclaredTensor(name="x"),
        DeclaredTensor(name="sr", constant="16000"),
    )
    assert parse_tensors("", "option.inputs") == ()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("x:float31[1]", r"option\.inputs: x has the dtype 'float31'; valid: float32"),
        ("x:int64[2,n]", r"x has the size 'n'; valid: an integer"),
        ("x:int64[-2]", r"x has the size '-2'"),
        ("x:int64[1", r"cannot read 'x:int64\[1'"),
        ("x,x", r"x is declared twice"),
        ("a b", r"cannot read 'a b'"),
    ],
)
def test_a_wrong_declaration_says_what_is_valid(text, complaint):
    with pytest.raises(ValueError, match=complaint):
        parse_tensors(text, "option.inputs")


def save_state_dict(path):
    torch.save(torch.nn.Linear(2, 2).state_dict(), path)


def save_module(path):
    torch.save(torch.nn.Linear(2, 2), path)


def save_old_format(path):
    torch.save({"a": torch.ones(1)}, path, _use_new_zipfile_serialization=False)


def save_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")


@pytest.mark.parametrize(
    ("write", "complaint"),
    [
        (save_state_dict, r"model\.pt is a state dict.*torch\.jit\.script\(model\)\.save"),
        (save_module, r"pickled object of class torch\.nn\.modules\.linear\.Linear.*torch\.export\.save"),
        (save_old_format, r"torch\.save in its old format"),
        (save_zip, r"zip archive without a torch program"),
        (
            lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\n"),
            r"Git LFS pointer.*git lfs pull",
        ),
        (lambda p: p.write_text("<!doctype html><p>404"), r"HTML page"),
        (lambda p: p.write_bytes(b""), r"empty file"),
        (lambda p: p.write_bytes(b"PK\x03\x04" + bytes(40)), r"cut short"),
        (lambda p: None, r"no such file"),
    ],
)
def test_a_file_without_a_program_is_named_for_what_it_is(tmp_path, write, complaint):
    write(tmp_path / "model.pt")
    with pytest.raises(ValueError, match=complaint):
        identify(tmp_path / "model.pt")


def test_identifying_a_pickle_runs_nothing_in_it(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (exec, ("raise SystemExit('ran')",))

    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("model/data.pkl", pickle.dumps({"weight": Bomb()}))
    with pytest.raises(ValueError, match=r"pickled object of class builtins\.exec"):
        identify(tmp_path / "model.pt")


def test_a_recorded_input_naming_another_class_is_not_loaded(tmp_path):
    with zipfile.ZipFile(tmp_path / "m.pt", "w") as archive:
        archive.writestr("m/traced_inputs.pkl", pickle.dumps({"forward": [DeclaredTensor(name="x")]}))
    assert traced_inputs(tmp_path / "m.pt") is None


def test_recorded_inputs_have_the_dtypes_and_shapes_of_the_trace(tmp_path):
    wide = torch.arange(12, dtype=torch.int32).reshape(3, 4)
    examples = (wide.t(), torch.rand(2, 4)[:, 1:3], torch.zeros(0, 3, dtype=torch.bfloat16))

    class Sizes(torch.nn.Module):
        def forward(self, a, b, c):
            return a.float().sum() + b.sum() + c.float().sum()

    torch.jit.trace(Sizes(), examples).save(tmp_path / "m.pt")
    found = traced_inputs(tmp_path / "m.pt")
    assert [t.dtype for t in found] == [torch.int32, torch.float32, torch.bfloat16]
    assert [t.shape for t in found] == [t.shape for t in examples]


def load(folder, name="model.pt", **options):
    spec = ModelSpec(
        name="m",
        version=None,
        path=str(folder),
        model_file=name,
        options=TorchScriptOptions(**options),
        properties={},
    )
    return TorchScriptEngine(EngineContext(devices=("cpu",), slots=4)).load(spec)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"inputs": "nope:float32[-1,4]", "outputs": "y"}, None),
        (
            {"inputs": "input:float32[-1,4],nope"},
            r"option\.inputs: nope is no argument of forward.*input \(Tensor\)",
        ),
        ({"inputs": "nope=3"}, r"nope is no argument of forward; it takes input \(Tensor\)"),
        ({"inputs": "input=3"}, r"input=3 is no constant of the type Tensor"),
        ({"reset": "reset_states"}, r"option\.reset: no method 'reset_states' in the module"),
        ({"extraFiles": "labels.txt"}, r"option\.extraFiles: model\.pt has no file labels\.txt"),
    ],
)
def test_options_that_do_not_fit_the_module_say_so(tmp_path, options, complaint):
    torch.jit.script(torch.nn.Linear(4, 2)).save(tmp_path / "model.pt")
    if complaint is None:  # one new name for one required argument is a renaming
        assert load(tmp_path, **options).signature.inputs[0].name == "nope"
        return
    with pytest.raises(ValueError, match=complaint):
        load(tmp_path, **options)


def test_extra_files_of_the_archive_are_read(tmp_path):
    torch.jit.save(
        torch.jit.script(torch.nn.Identity()), tmp_path / "model.pt", _extra_files={"labels.txt": "a\nb"}
    )
    assert load(tmp_path, extraFiles="labels.txt").extra_files == {"labels.txt": "a\nb"}


def test_an_argument_that_no_client_can_send_is_named(tmp_path):
    class Mode(torch.nn.Module):
        def forward(self, x: torch.Tensor, mode: str) -> torch.Tensor:
            return x if mode == "same" else x * 2

    torch.jit.script(Mode()).save(tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"argument mode is str, which no client can send.*name=value"):
        load(tmp_path)
    assert [s.name for s in load(tmp_path, inputs="x:float32[-1],mode=twice").signature.inputs] == ["x"]


def test_a_missing_model_file_and_a_missing_gpu_are_explained():
    engine = TorchScriptEngine(EngineContext(devices=("cpu",)))
    spec = ModelSpec(
        name="m", version=None, path="/nowhere", model_file=None, options=TorchScriptOptions(), properties={}
    )
    with pytest.raises(ValueError, match=r"model m: no \*\.pt.*name one model\.pt"):
        engine.load(spec)
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match=r"gpu0: .* sees no CUDA device.*load_on_devices=cpu"):
            TorchScriptEngine(EngineContext(devices=("gpu0",)))
