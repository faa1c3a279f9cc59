"""Voice activity with explicit state: the client sends back what it was given, the server keeps nothing.

Request (JSON):  {"audio": [floats], "state": "<of the last answer>"}; a multiple of 512 samples at 16 kHz.
Answer  (JSON):  {"speech": [one probability per 512 samples], "state": "<for the next request>"}
"""

from __future__ import annotations

import base64
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from djl_python import Input, Output

CHUNK = 512  # samples per step
CONTEXT = 64  # samples of the chunk before, put in front of each chunk
STATE = (2, 128)  # of the recurrent cell
STATE_SIZE = STATE[0] * STATE[1] + CONTEXT


@dataclass
class Clip:
    """One request: what is left to listen to, and the state so far."""

    chunks: np.ndarray  # float32 [steps, 512]
    state: np.ndarray  # float32 [320]
    speech: list[float]


class Detector:
    """The network of the `.jit`, called as the function it is: its state goes in and comes out."""

    def __init__(self, device: str) -> None:
        torch.set_num_threads(1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch announces the end of TorchScript
            self.device = device
            whole = torch.jit.load("silero_vad.jit", map_location=device).eval()
            self.network = whole._model  # noqa: SLF001  it has no other name

    @torch.inference_mode()
    def listen(self, clips: list[Clip]) -> None:
        """Go through all clips side by side; shorter ones leave earlier."""
        for step in range(max(len(clip.chunks) for clip in clips)):
            going = [clip for clip in clips if step < len(clip.chunks)]
            states = torch.from_numpy(np.stack([clip.state for clip in going])).to(self.device)
            cell = states[:, CONTEXT:].reshape(-1, *STATE).transpose(0, 1).contiguous()
            chunks = torch.from_numpy(np.stack([clip.chunks[step] for clip in going])).to(self.device)
            heard = torch.cat([states[:, :CONTEXT], chunks], 1)
            speech, cell = self.network(heard, cell)
            cell = cell.transpose(0, 1).reshape(len(going), -1)
            states = torch.cat([heard[:, -CONTEXT:], cell], 1).cpu().numpy()
            for clip, probability, state in zip(going, speech[:, 0].tolist(), states, strict=True):
                clip.speech.append(probability)
                clip.state = state


detector: Detector | None = None


def handle(inputs: Input) -> list[Output] | None:
    """Load on the first, empty call; then answer each request of the batch, each for itself."""
    global detector  # noqa: PLW0603  DJL's handlers are modules with a function
    if inputs.is_empty():
        device = inputs.get_property("device_id")
        detector = Detector(f"cuda:{device}" if torch.cuda.is_available() and device != "-1" else "cpu")
        return None
    clips = [parse(item) for item in inputs.get_batches()]
    if good := [clip for clip in clips if isinstance(clip, Clip)]:
        detector.listen(good)
    return [reply(clip) for clip in clips]


def reply(clip: Clip | str) -> Output:
    """Return a request's answer, or a 400 with what was wrong with it."""
    if isinstance(clip, str):
        return Output().error(clip, 400, "bad request")
    state = base64.b64encode(clip.state.tobytes()).decode()
    output = Output().add_property("Content-Type", "application/json")
    return output.add_as_json({"speech": clip.speech, "state": state})


def parse(item: Input) -> Clip | str:
    """Read one request; returns what is wrong with it when it is no clip."""
    try:
        request = item.get_as_json()
        audio = np.asarray(request["audio"], dtype=np.float32)
        state = np.frombuffer(base64.b64decode(request.get("state") or "", validate=True), dtype=np.float32)
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError, RecursionError):
        return 'expected {"audio": [floats], "state": "<of the last answer>"}'
    if audio.ndim != 1 or audio.size == 0 or audio.size % CHUNK:
        return f"audio: expected a multiple of {CHUNK} samples, got the shape {list(audio.shape)}"
    if not (np.isfinite(audio).all() and np.isfinite(state).all()):
        return "audio and state must be finite numbers"
    if state.size not in (0, STATE_SIZE):
        return "state: send back the state of the last answer as it was, or none at the start"
    fresh = np.zeros(STATE_SIZE, dtype=np.float32)
    return Clip(audio.reshape(-1, CHUNK), state if state.size else fresh, [])
