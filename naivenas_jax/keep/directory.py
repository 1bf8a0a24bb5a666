"""A directory of files with a manifest that holds the hash of each.

It is written as a whole, and read only if nothing of it has been changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from naivenas_jax.errors import SaveError

MANIFEST = "manifest.json"
STRUCTURE = "structure.json"
_FORMAT = "naivenas_jax save"
_VERSION = 1
_FILE = re.compile(
    r"structure\.json|(variables|graph|undo|network\.[0-9]+|tree\.[A-Za-z_][A-Za-z0-9_]*)\.safetensors", re.ASCII
)
#: A manifest is short.
_LARGEST_MANIFEST = 2**20


def write(path: Path, files: Mapping[str, bytes], overwrite: bool) -> None:
    """Write the files and their manifest, all or nothing: under a temporary name beside the path, which is renamed.

    Args:
      path: of the directory.
      files: what they hold, by name.
      overwrite: whether a save that is there already is replaced.

    Raises:
      SaveError: if something is there, and ``overwrite`` is not given or it is no save.
    """
    _check_free(path, overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _temporary(path) as made:
        made.mkdir()
        for name, data in files.items():
            assert _FILE.fullmatch(name), name
            _write(made / name, data)
        _write(made / MANIFEST, _manifest(files))
        if not os.path.lexists(path):
            made.rename(path)
            return
        with _temporary(path) as old:
            path.rename(old)
            try:
                made.rename(path)
            except OSError:
                old.rename(path)
                raise


def _check_free(path: Path, overwrite: bool) -> None:
    if not os.path.lexists(path):
        return
    if not overwrite:
        raise SaveError(f"{path} exists. Save under another path, or replace what is there: overwrite=True.")
    if path.is_symlink() or not (path / MANIFEST).is_file():
        raise SaveError(
            f"{path} exists and is no save of this library, so that it is not overwritten. Remove it first."
        )


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """A name beside a path; what is still there in the end is removed."""
    made = path.parent / f".{path.name}.{uuid.uuid4().hex}"
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _manifest(files: Mapping[str, bytes]) -> bytes:
    """The manifest, with the hash of what it says itself."""
    said = {
        "format": _FORMAT,
        "version": _VERSION,
        "files": {name: {"sha256": _hash(data), "bytes": len(data)} for name, data in sorted(files.items())},
    }
    return _text({**said, "sha256": _hash(_text(said))})


def _text(said: Mapping[str, object]) -> bytes:
    return (json.dumps(said, indent=1) + "\n").encode()


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def read(path: Path) -> dict[str, bytes]:
    """What the files hold, by name, if each of them is as it was written.

    Raises:
      SaveError: names the file that is missing or has been changed.
    """
    if not path.is_dir():
        found = "is a file" if path.exists() else "does not exist"
        raise SaveError(f"{path} is no directory that nas.save has written: it {found}.")
    said = _checked(_bytes(path / MANIFEST, None), path)
    return {name: _bytes(path / name, entry) for name, entry in said["files"].items()}


def _checked(data: bytes, path: Path) -> dict[str, Any]:
    """What a manifest says.

    Raises:
      SaveError: if it has been changed, or is of another version.
    """
    try:
        said = as_json(data)
        version, own = said["version"], said.pop("sha256")
        names = [name for name, entry in said["files"].items() if set(entry) == {"sha256", "bytes"}]
        same = (
            len(names) == len(said["files"])
            and said["format"] == _FORMAT
            and _text({**said, "sha256": own}) == data
            and own == _hash(_text(said))
        )
        newer = said["format"] == _FORMAT and type(version) is int and version > _VERSION
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SaveError(f"{path / MANIFEST} is no manifest that nas.save has written ({error!r:.100}).") from error
    if newer:
        raise SaveError(f"{path} was saved by a newer version of naivenas_jax, which writes version {version}.")
    if not same or type(version) is not int or version != _VERSION:
        raise SaveError(f"{path / MANIFEST} has been changed since it was saved.")
    for name in names:
        if not _FILE.fullmatch(name):
            raise SaveError(f"{path / MANIFEST} names the file {name!r:.80}, which is none of a save.")
    if STRUCTURE not in names:
        raise SaveError(f"{path / MANIFEST} names no {STRUCTURE}.")
    return dict(said)


def as_json(data: bytes) -> Any:
    """What a text says in JSON as it is written here: no key is there twice, and all numbers are finite.

    Raises:
      ValueError: if it is no such text.
    """
    return json.loads(data.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_number)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key is there twice")
    return made


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no number of JSON")


def _bytes(path: Path, entry: Mapping[str, Any] | None) -> bytes:
    """What a file holds; ``entry`` is what the manifest says of it."""
    if path.is_symlink() or not path.is_file():
        raise SaveError(f"{path} is missing, or is no plain file.")
    size = path.stat().st_size
    wanted = size if entry is None else entry["bytes"]
    if size != wanted or (entry is None and size > _LARGEST_MANIFEST):
        raise SaveError(f"{path} has {size} bytes, and was saved with {wanted if entry else 'fewer'}.")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SaveError(f"{path} cannot be read: {error}") from error
    if entry is not None and _hash(data) != entry["sha256"]:
        raise SaveError(f"{path} has been changed since it was saved: its sha256 is another one.")
    return data
