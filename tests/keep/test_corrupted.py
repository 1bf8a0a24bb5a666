"""Hundreds of saves that were damaged or forged are refused, each with a `nas.SaveError`."""

import hashlib
import json
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import naivenas_jax as nas
from naivenas_jax.keep import directory

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    x = nas.input_vertex("x", 3, shape=(2, 3))
    hidden = nas.invariant_vertex("act", nn.relu, nas.layer("hidden", nn.Dense(4), x))
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.flatten("flat", hidden)))
    variables = graph.init(jax.random.key(0), jnp.ones((1, 2, 3)))
    path = tmp_path_factory.mktemp("saved") / "net"
    mutation = nas.delta_nout(graph, variables, {"hidden": -1})
    history = nas.History().add("first", graph).add("narrow", mutation, "first", keep=True)
    state = optax.adam(0.1).init(mutation.variables["params"])
    nas.save(path, mutation, history=history, undo=True, state=state)
    assert nas.load(path).graph == mutation.graph
    return path


def files_of(path: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in path.iterdir()}


def refused(files: dict[str, bytes], path: Path, what: str = "", model: object = None) -> str:
    """The message by which a save of these files is refused."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    for name, data in files.items():
        (path / name).write_bytes(data)
    try:
        nas.load(path, model=model)
    except nas.SaveError as error:
        return str(error)
    raise AssertionError(f"was loaded: {what}")


def damaged(files: dict[str, bytes]) -> Iterator[dict[str, bytes]]:
    """Bytes changed, cut off, added, files swapped, removed and emptied."""
    names = sorted(files)
    for name in names:
        data = files[name]
        for at in RNG.integers(0, len(data), 60):
            other = bytes([data[at] ^ int(RNG.integers(1, 256))])
            yield {**files, name: data[:at] + other + data[at + 1 :]}
        for size in RNG.integers(0, len(data), 15):
            yield {**files, name: data[:size]}
        yield {**files, name: data + b"\0"}
        yield {**files, name: data + b"\n"}
        yield {key: value for key, value in files.items() if key != name}
        for other_name in names:
            if files[other_name] != files[name]:
                yield {**files, name: files[other_name]}
                yield {**files, name: files[other_name], other_name: data}


def test_every_damaged_save_is_refused(saved, tmp_path):
    every = list(damaged(files_of(saved)))
    for changed in every:
        refused(changed, tmp_path / "net")
    assert len(every) >= 600


def signed(files: dict[str, bytes], /, **manifest: Any) -> dict[str, bytes]:
    """Files with a manifest that fits them, as whoever wants to do harm would make it."""
    own = {name: data for name, data in files.items() if name != directory.MANIFEST}
    said = {
        "format": "naivenas_jax save",
        "version": 1,
        "files": {
            name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for name, data in sorted(own.items())
        },
    } | manifest
    text = (json.dumps(said, indent=1) + "\n").encode()
    whole = {**said, "sha256": hashlib.sha256(text).hexdigest()}
    return {**own, directory.MANIFEST: (json.dumps(whole, indent=1) + "\n").encode()}


def test_what_is_signed_anew_is_loaded_unless_it_is_wrong(saved, tmp_path):
    """So that the forgeries below are refused for what they say, and not for their hashes."""
    path = tmp_path / "net"
    path.mkdir()
    for name, data in signed(files_of(saved)).items():
        (path / name).write_bytes(data)
    assert nas.load(path).graph == nas.load(saved).graph


def forged_structures(structure: dict[str, Any]) -> Iterator[tuple[str, Callable[[dict[str, Any]], object]]]:
    """Changes of the structure, by what they are."""

    def vertex(number: int, change: Callable[[list[Any]], object]) -> Callable[[dict[str, Any]], object]:
        return lambda whole: change(whole["graph"]["vertices"][number])

    names = [row[0] for row in structure["graph"]["vertices"]]
    act, dense, flat = (names.index(name) for name in ("act", "hidden", "flat"))
    for fn in (
        "os:system",
        "builtins:exec",
        "jax.numpy:load",
        "jax._src.core:os",
        "numpy:fromfile",
        "jax.nn:__loader__",
        "subprocess:run",
        "jax.numpy:np",
        "flax.linen:os.system",
        "sys",
        "../../x",
        "jax.nn:relu.__globals__",
    ):
        forged = {"name": {"known": fn}}
        yield fn, vertex(act, lambda row, forged=forged: row[1]["fields"].update(fn=forged))
        yield (
            f"layer {fn}",
            vertex(dense, lambda row, forged=forged: row[1]["layer"]["layer"].update(kind=forged["name"])),
        )
    for kind in ("registered", "layer", "import", "eval"):
        forged = {"name": {kind: "os.system"}}
        yield kind, vertex(act, lambda row, forged=forged: row[1]["fields"].update(fn=forged))
    for size in (-1, 0, 10**9, 10**30, 1.5, "3", None, [3]):
        yield f"size {size}", vertex(0, lambda row, size=size: row[1]["fields"].update(size=size))
        yield f"positions {size}", vertex(flat, lambda row, size=size: row[1]["fields"].update(positions=size))
        yield f"nin {size}", vertex(dense, lambda row, size=size: row[1].update(nin=[size]))
        yield (
            f"features {size}",
            vertex(dense, lambda row, size=size: row[1]["layer"]["layer"].update(fields=[["features", size]])),
        )
        yield f"shape {size}", lambda whole, size=size: first_array(whole["variables"]).update(shape=[size])
        yield f"input {size}", vertex(act, lambda row, size=size: row.__setitem__(2, [size if size != 0 else 99]))
    for dtype in ("object", "float128", "V8", "str", "", None, "O", "int4", "float64"):
        yield f"dtype {dtype}", lambda whole, dtype=dtype: first_array(whole["variables"]).update(dtype=dtype)
    for name in ("../../etc/passwd", "/etc/passwd", "", None, 3):
        yield f"array {name}", lambda whole, name=name: first_array(whole["variables"]).update({"in": name})
        yield f"tree {name}", lambda whole, name=name: whole["trees"].update({str(name): {"dict": []}})
    for value in (None, [], {}, 3, "text", {"tuple": 3}, {"unknown": 1}, {"layer": {"same": 7}}, {"array": {}}):
        yield f"variables {value}", lambda whole, value=value: whole.update(variables=value)
        yield f"graph {value}", lambda whole, value=value: whole.update(graph=value)
        yield f"op {value}", vertex(dense, lambda row, value=value: row.__setitem__(1, value))
        if value is not None:
            yield f"plan {value}", lambda whole, value=value: whole.update(plan=value)
    for name in ("slices", "removed", "kept", "leaves", "plan", "split"):
        for value in (None, 3, "text", [[["params"], 3]], {"axes": 3}):
            if name != "split":
                yield f"{name} {value}", lambda whole, own={name: value}: whole["undo"]["records"][0].update(own)
        yield f"no {name}", lambda whole, name=name: whole["undo"]["records"][0].pop(name)
    for change in ([], [3], None, [[["params", "hidden", "bias"], {"tuple": []}]]):
        yield f"what was removed: {change}", lambda whole, own=change: whole["undo"]["records"][0].update(slices=own)
    yield "before", lambda whole: whole["undo"].update(before=whole["graph"])
    yield "records", lambda whole: whole["undo"].update(records=[])
    yield "held graph", lambda whole: whole["networks"][0][1].update(graph=whole["undo"]["before"])
    yield "held name", lambda whole: whole["networks"][0].__setitem__(0, "unknown")
    yield "history", lambda whole: whole.update(history={"format": "other"})
    yield "op", vertex(dense, lambda row: row[1].update(op="exec"))
    yield "field", vertex(act, lambda row: row[1]["fields"].update(__class__=3))
    yield (
        "partial",
        vertex(
            act,
            lambda row: row[1]["fields"].update(
                fn={"partial": [{"name": {"known": "os:system"}}, {"tuple": ["true"]}, {"dict": []}, 0]}
            ),
        ),
    )
    yield "made", vertex(act, lambda row: row[1]["fields"].update(fn={"made": ["__build_class__", [], 0]}))
    yield "cycle", vertex(act, lambda row: row.__setitem__(2, [act]))


def first_array(data: Any) -> dict[str, Any]:
    """The first array in a value."""
    if isinstance(data, dict) and "array" in data:
        return data["array"]
    inner = data["dict"][0][1] if isinstance(data, dict) else data[0]
    return first_array(inner)


def test_forged_structures_are_refused(saved, tmp_path):
    files = files_of(saved)
    structure = json.loads(files[directory.STRUCTURE])
    every = list(forged_structures(structure))
    for what, change in every:
        whole = json.loads(files[directory.STRUCTURE])
        change(whole)
        assert json.dumps(whole) != json.dumps(structure), what
        refused(signed({**files, directory.STRUCTURE: json.dumps(whole).encode()}), tmp_path / "net", what)
    assert len(every) >= 120


def test_forged_models_are_refused(tmp_path):
    imported = nas.from_linen(nn.Dense(2), nn.Dense(2).init(jax.random.key(0), jnp.ones((1, 3))), jnp.ones((1, 3)))
    nas.save(tmp_path / "saved", *imported)
    files = files_of(tmp_path / "saved")
    for forged in (
        {"number": -1},
        {"number": 1},
        {"number": True},
        {"number": "0"},
        {"number": None},
        {"number": 10**30},
        {"kind": "module"},
        {"kind": "edited"},
        {"kind": None},
    ):
        whole = json.loads(files[directory.STRUCTURE])
        (model,) = (row[1]["model"]["function"] for row in whole["graph"]["vertices"] if row[1]["op"] == "model")
        assert model["number"] == 0
        model.update(forged)
        refused(
            signed({**files, directory.STRUCTURE: json.dumps(whole).encode()}),
            tmp_path / "net",
            str(forged),
            nn.Dense(2),
        )


def forged_tensors(data: bytes) -> Iterator[bytes]:
    """Files of arrays whose headers lie: sizes beyond the file, beyond memory, overlapping, no JSON at all."""
    (length,) = struct.unpack("<Q", data[:8])
    header, rest = json.loads(data[8 : 8 + length]), data[8 + length :]

    def with_header(changed: object, claimed: int | None = None) -> bytes:
        text = changed if isinstance(changed, bytes) else json.dumps(changed).encode()
        return struct.pack("<Q", len(text) if claimed is None else claimed) + text + rest

    first = next(name for name in header if name != "__metadata__")
    for shape in ([2**40], [2**62, 4], [-1], [1.5], "x", [2**64]):
        yield with_header({**header, first: {**header[first], "shape": shape}})
    second = [name for name in header if name != "__metadata__"][1]
    yield with_header({**header, second: {**header[second], "data_offsets": header[first]["data_offsets"]}})
    for offsets in ([0, 2**40], [-8, 8], [8, 0], [2**63, 2**63 + 4], None):
        yield with_header({**header, first: {**header[first], "data_offsets": offsets}})
    yield with_header({**header, first: {**header[first], "dtype": "PICKLE"}})
    for claimed in (0, 2**63, 2**40, length + 10**6):
        yield with_header(header, claimed)
    twice = json.dumps(header).encode().replace(b"{", b"{" + json.dumps(first).encode() + b": {}, ", 1)
    for text in (twice, b"", b"[]", b"null", b"\x80\x04\x95", b"{" * 1000, b"[" * 100000):
        yield with_header(text)


def test_forged_arrays_and_manifests_are_refused(saved, tmp_path):
    files = files_of(saved)
    forged = [
        signed({**files, "variables.safetensors": data}) for data in forged_tensors(files["variables.safetensors"])
    ]
    entries = json.loads(files[directory.MANIFEST])["files"]
    outside = {"sha256": hashlib.sha256(b"secret").hexdigest(), "bytes": 6}
    (tmp_path / "secret").write_bytes(b"secret")
    for name in ("../secret", str(tmp_path / "secret"), "..", "", "sub/x.safetensors", "x.pkl", "tree.é.safetensors"):
        forged.append(signed(files, files={**entries, name: outside}))
    for version in (0, 2, "1", None, 1.5):
        forged.append(signed(files, version=version))
    for said in ([], {}, None, "x", {"structure.json": 3}, {name: {} for name in entries}):
        forged.append(signed(files, files=said))
    forged.append(signed(files, format="other"))
    for text in (b"", b"null", b"[]", b"3", b"{}", b"[" * 100000, b"\xff\xfe"):
        forged += [{**files, directory.MANIFEST: text}, signed({**files, directory.STRUCTURE: text})]
    structure = files[directory.STRUCTURE]
    for found, put in (
        (b'"graph":', b'"graph":{},"graph":'),  # a key twice: whoever reads the first and checks the last is deceived
        (b'"plan":{', b'"plan":null,"plan":{'),
        (b'"size":3', b'"size":2,"size":3'),
        (b'"size":3', b'"size":NaN'),
        (b'"size":3', b'"size":' + b"9" * 5000),
        (b'"size":3', b'"size":' + b"[" * 3000 + b"]" * 3000),
        (b'"vertices":[', b'"vertices":[' + b'{"tuple":[' * 3000 + b"]}" * 3000 + b","),
        (b'"size":3', b'"size":3e0'),
        (b"{", b"\xef\xbb\xbf{"),
    ):
        assert found in structure, found
        forged.append(signed({**files, directory.STRUCTURE: structure.replace(found, put, 1)}))
    manifest = files[directory.MANIFEST]
    forged.append({**files, directory.MANIFEST: manifest.replace(b'"version"', b'"version": 1,\n "version"', 1)})
    forged.append({**files, directory.MANIFEST: manifest + b" " * 2**20})
    for each in forged:
        refused(each, tmp_path / "net")


def test_links_and_other_things_are_no_saves(saved, tmp_path):
    copy = shutil.copytree(saved, tmp_path / "net")
    (copy / "variables.safetensors").unlink()
    (copy / "variables.safetensors").symlink_to(saved / "variables.safetensors")
    with pytest.raises(nas.SaveError, match=r"variables\.safetensors is missing, or is no plain file"):
        nas.load(copy)
    os.remove(copy / "variables.safetensors")
    os.mkfifo(copy / "variables.safetensors")  # to read it would wait for ever
    with pytest.raises(nas.SaveError, match=r"is no plain file"):
        nas.load(copy)
    os.remove(copy / "variables.safetensors")
    (copy / "variables.safetensors").mkdir()
    with pytest.raises(nas.SaveError, match=r"is no plain file"):
        nas.load(copy)
    for path, message in ((tmp_path / "nowhere", "does not exist"), (saved / "manifest.json", "is a file")):
        with pytest.raises(nas.SaveError, match=message):
            nas.load(path)
    with pytest.raises(nas.SaveError, match=r"manifest\.json is missing"):
        nas.load(tmp_path)
    with pytest.raises(nas.SaveError, match="path is that of a directory"):
        nas.load(3)


def test_newer_versions_say_so(saved, tmp_path):
    assert "newer version" in refused(signed(files_of(saved), version=2), tmp_path / "net")
