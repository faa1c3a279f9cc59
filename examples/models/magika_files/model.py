"""Tell what a file is: the body is the file, the answer its label, score and media type (JSON)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from djl_python import Input, Output


class Detector:
    """The network with what Magika does before and after it (magika 1.0.3, magika.py)."""

    def __init__(self) -> None:
        self.config = json.loads(Path("config.json").read_text())
        self.types = json.loads(Path("content_types.json").read_text())
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        providers = ["CPUExecutionProvider"]
        self.session = onnxruntime.InferenceSession("magika.onnx", options, providers=providers)

    def label(self, files: list[bytes]) -> list[dict[str, Any]]:
        """Return what each file is; the network sees all that are long enough at once."""
        answers = [self.simple(content) for content in files]
        open_ones = [index for index, answer in enumerate(answers) if answer is None]
        if open_ones:
            features = np.stack([self.features(files[index]) for index in open_ones])
            (scores,) = self.session.run(["target_label"], {"bytes": features})
            for index, row in zip(open_ones, scores, strict=True):
                answers[index] = self.decide(row)
        return answers

    def simple(self, content: bytes) -> dict[str, Any] | None:
        """Answer files that are too short for the network."""
        if not content:
            return self.describe("empty", 1.0)
        begin = content[: self.config["block_size"]]
        if len(begin.lstrip()) >= self.config["min_file_size_for_dl"]:
            return None
        try:
            begin.decode()
        except UnicodeDecodeError:
            return self.describe("unknown", 1.0)
        return self.describe("txt", 1.0)

    def features(self, content: bytes) -> np.ndarray:
        """Return int32 [2048]: the first and the last 1024 bytes, stripped, padded with 256."""
        first, last, block = self.config["beg_size"], self.config["end_size"], self.config["block_size"]
        features = np.full(first + last, self.config["padding_token"], dtype=np.int32)
        begin = content[:block].lstrip()[:first]
        end = content[-block:].rstrip()[-last:]
        features[: len(begin)] = np.frombuffer(begin, dtype=np.uint8)
        if end:
            features[-len(end) :] = np.frombuffer(end, dtype=np.uint8)
        return features

    def decide(self, scores: np.ndarray) -> dict[str, Any]:
        """Return the best label, or a general one when its score is below its threshold."""
        best = int(scores.argmax())
        label, score = self.config["target_labels_space"][best], float(scores[best])
        enough = self.config["thresholds"].get(label, self.config["medium_confidence_threshold"])
        label = self.config["overwrite_map"].get(label, label)
        if score < enough:
            label = "txt" if self.types[label]["is_text"] else "unknown"
        return self.describe(label, score)

    def describe(self, label: str, score: float) -> dict[str, Any]:
        """Return the answer for one file."""
        return {"label": label, "score": score, "media_type": self.types[label]["mime_type"]}


detector: Detector | None = None


def handle(inputs: Input) -> Output | None:
    """Load on the first, empty call; then label each file of the batch."""
    global detector  # noqa: PLW0603  DJL's handlers are modules with a function
    if inputs.is_empty():
        detector = Detector()
        return None
    output = Output()
    output.add_property("Content-Type", "application/json")
    answers = detector.label([bytes(item.get_as_bytes() or b"") for item in inputs.get_batches()])
    for index, answer in enumerate(answers):
        output.add_as_json(answer, batch_index=index)
    return output
