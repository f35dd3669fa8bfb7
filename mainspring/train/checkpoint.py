"""Checkpoints: a tree of arrays on disk, whole or not there at all.

With this you can stop and go on: `save` writes a new folder ``step-00000200`` of

    state.safetensors   the leaves, named by their paths in the tree
    manifest.json       step, shapes, dtypes, loader state, config, metadata, sizes and SHA-256

under another name, waits for the disk, renames it, and then points ``latest`` at it; so a process killed at any moment
leaves every earlier checkpoint as it was. `load` verifies all of it before it returns anything; `latest_valid` finds the
newest checkpoint that is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from mainspring._version import __version__
from mainspring.base import tree
from mainspring.base.errors import ArgumentError, CheckpointError, DependencyError
from mainspring.train.files import publish, replace_text, sync_folder, write_durably

FORMAT = 1
TENSORS = "state.safetensors"
MANIFEST = "manifest.json"
LATEST = "latest"

_NAME = re.compile(r"step-(\d{8,})(\.replaced)?")
_UNFINISHED = ".unfinished-"  # a folder being written or deleted; never read, removed by the next save
_DTYPES = {
    "BOOL": np.dtype(bool),
    **{f"I{bits}": np.dtype(f"int{bits}") for bits in (8, 16, 32, 64)},
    **{f"U{bits}": np.dtype(f"uint{bits}") for bits in (8, 16, 32, 64)},
    **{f"F{bits}": np.dtype(f"float{bits}") for bits in (16, 32, 64)},
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
_STORABLE = {dtype.name for dtype in _DTYPES.values()}

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class Checkpoint:
    """What `load` returns.

    Attributes:
        path: the folder it was read from.
        step: the step it was written at.
        state: the tree that was asked for; without one, a dict from path to array.
        loader: the loader's state, or None.
        config, metadata: as they were given to `save`.
    """

    path: Path
    step: int
    state: Any
    loader: dict[str, Any] | None
    config: dict[str, Any]
    metadata: dict[str, Any]


def save(
    folder: PathLike,
    step: int,
    state: Any,
    *,
    loader: dict[str, Any] | None = None,
    config: dict[str, Any] | None = None,
    metadata: dict[str, Any] | None = None,
    keep: int = 3,
) -> Path:
    """Write a checkpoint and return its folder, once the disk has all of it.

    Args:
        folder: of all checkpoints of a run; made when missing. One process writes to it at a time.
        step: optimizer steps done, ≥ 0. A checkpoint of the same step is replaced.
        state: a tree of arrays and tensors of any real dtype, scalars and random keys among them.
        loader: `Loader.state()`.
        config, metadata: anything JSON can hold.
        keep: how many checkpoints to keep, this one included; older ones are deleted after this one is safe.

    Raises:
        ArgumentError: `step` or `keep` out of range.
        CheckpointError: a leaf cannot be stored, or the disk is full or refuses; nothing earlier is touched.
    """
    if step < 0:
        raise ArgumentError("checkpoint.save", "step", "it must not be negative", str(step), "save(folder, 200, state)")
    if keep < 1:
        raise ArgumentError("checkpoint.save", "keep", "it must be at least 1", str(keep), "save(folder, 200, state, keep=3)")
    folder = Path(folder)
    arrays = _storable_leaves(state)
    content = _safetensors()[0](arrays)
    manifest = _manifest(arrays, content, {"step": step, "loader": loader, "config": config or {}, "metadata": metadata or {}})
    final = folder / f"step-{step:08d}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_unfinished(folder)
        _write(folder, final, {TENSORS: content, MANIFEST: manifest})
        replace_text(folder / LATEST, final.name + "\n")
        _prune(folder, final, keep)
    except OSError as error:
        _remove_unfinished(folder)
        raise _cannot_write(folder, len(content) + len(manifest), error) from error
    return final


def _storable_leaves(state: Any) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    for path, leaf in zip(tree.paths(state), tree.leaves(state), strict=True):
        if path in arrays:
            rule = "two leaves have the same path; rename a key that holds a dot"
            raise CheckpointError("checkpoint.save", "state", rule, path, "{'a': {'b': x}}")
        arrays[path] = _storable(path, leaf)
    return arrays


def _storable(path: str, leaf: Any) -> np.ndarray:
    """`leaf` as a contiguous little-endian array: the bytes that safetensors stores."""
    array = np.asarray(leaf)
    if array.dtype.name not in _STORABLE:
        rule = f"every leaf must be an array of a dtype among {', '.join(sorted(_STORABLE))}"
        got = f"{type(leaf).__name__} of dtype {array.dtype} at {path or 'the root'}"
        raise CheckpointError("checkpoint.save", "state", rule, got, "make it a static field, or an array")
    return np.asarray(array, array.dtype.newbyteorder("<"), order="C")


def _manifest(arrays: dict[str, np.ndarray], content: bytes, facts: dict[str, Any]) -> bytes:
    manifest = {
        "format": FORMAT,
        "mainspring": __version__,
        **facts,
        "files": {TENSORS: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}},
        "tensors": [{"path": path, "dtype": array.dtype.name, "shape": list(array.shape)} for path, array in arrays.items()],
    }
    try:
        manifest = json.loads(json.dumps(manifest))  # as it will be read: keys become strings, tuples lists
    except (TypeError, ValueError) as error:
        rule = "all must be what JSON can hold: dicts, lists, strings, numbers, booleans, None"
        raise CheckpointError("checkpoint.save", "loader, config, metadata", rule, str(error), "config={'width': 8}") from error
    return json.dumps({**manifest, "sha256": _fingerprint(manifest)}, indent=1, sort_keys=True).encode() + b"\n"


def _fingerprint(manifest: dict[str, Any]) -> str:
    """SHA-256 of a manifest without its own ``sha256``."""
    bare = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(bare, sort_keys=True).encode()).hexdigest()


def _write(folder: Path, final: Path, files: dict[str, bytes]) -> None:
    temporary = folder / f"{_UNFINISHED}{final.name}"
    temporary.mkdir()
    for name, content in files.items():
        write_durably(temporary / name, content)
    if final.exists():  # until the new one has its name, the old one is found as `.replaced`
        replaced = final.with_name(f"{final.name}.replaced")
        if replaced.exists():
            _delete(replaced)
        os.rename(final, replaced)
    publish(temporary, final)


def _delete(path: Path) -> None:
    """Remove a checkpoint; when that is cut short, what is left no longer counts as one."""
    doomed = path.with_name(f"{_UNFINISHED}{path.name}")
    shutil.rmtree(doomed, ignore_errors=True)
    os.rename(path, doomed)
    shutil.rmtree(doomed)


def _remove_unfinished(folder: Path) -> None:
    for path in folder.glob(f"{_UNFINISHED}*"):
        shutil.rmtree(path, ignore_errors=True)


def _prune(folder: Path, newest: Path, keep: int) -> None:
    """Keep `newest` and the `keep - 1` sound ones before it; what is older goes. Later steps are left alone."""
    sound = 0
    for path in _candidates(folder):
        if _superseded(path) or (sound >= keep and _step(path) < _step(newest)):
            _delete(path)
        elif _step(path) <= _step(newest):
            sound += path == newest or _looks_sound(path)
    sync_folder(folder)


def _superseded(path: Path) -> bool:
    """Whether `path` is an old version of a step whose new version is sound."""
    return path.suffix == ".replaced" and _looks_sound(path.with_suffix(""))


def _looks_sound(path: Path) -> bool:
    """Whether manifest and sizes are right; contents are hashed only when they are read."""
    try:
        _checked_manifest(path)
    except CheckpointError:
        return False
    return True


def _cannot_write(folder: Path, size: int, error: OSError) -> CheckpointError:
    try:
        free = f", {shutil.disk_usage(folder).free:,} bytes free"
    except OSError:
        free = ""
    got = f"{error.strerror or error}: {folder} ({size:,} bytes to write{free})"
    rule = "the disk must take the whole checkpoint; the earlier ones are as they were"
    return CheckpointError("checkpoint.save", "folder", rule, got, "free some space, or give another --out")


def _step(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    return int(match[1]) if match else -1


def _candidates(folder: Path) -> list[Path]:
    """The checkpoints of a run, the newest first."""
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(found, key=lambda path: (-_step(path), path.name))


def latest(folder: PathLike) -> Path:
    """The checkpoint that ``latest`` names, or the newest when there is no such file.

    Raises:
        CheckpointError: there is no checkpoint.
    """
    folder = Path(folder)
    named = _pointed_at(folder)
    if named is not None and named.is_dir():
        return named
    for path in _candidates(folder):
        return path
    rule = "it must hold a checkpoint (step-00000200)"
    raise CheckpointError("checkpoint", "folder", rule, f"{folder}: none", "save(folder, step, state)")


def _pointed_at(folder: Path) -> Path | None:
    try:
        name = (folder / LATEST).read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None
    return folder / name if _NAME.fullmatch(name) else None


def latest_valid(folder: PathLike) -> Path:
    """The checkpoint that ``latest`` names or else the newest one, skipping with a warning what is damaged.

    Raises:
        CheckpointError: there is none, or none is whole; the message says what is wrong with each.
    """
    folder = Path(folder)
    first = latest(folder)
    problems = []
    for path in [first, *[path for path in _candidates(folder) if path != first]]:
        try:
            _verified_content(path, _checked_manifest(path))
        except CheckpointError as error:
            problems.append(f"{path.name}: {error.rule} ({error.value})")
            continue
        for problem in problems:
            warnings.warn(f"skipping a damaged checkpoint: {problem}; using {path.name}", stacklevel=2)
        return path
    raise CheckpointError("checkpoint", "folder", "one checkpoint in it must be whole", "; ".join(problems), "train again")


def load(path: PathLike, like: Any = None, *, wrap: Callable[[np.ndarray], Any] | None = None) -> Checkpoint:
    """Read a checkpoint after verifying every size and checksum.

    Args:
        path: a checkpoint, or a folder of them, of which `latest` is read.
        like: a tree whose structure, shapes and dtypes the state must have; its leaves need only `shape` and `dtype`.
            Without it the state is a dict from path to array.
        wrap: applied to each NumPy array of the state, for instance `ms.asarray`.

    Raises:
        CheckpointError: it is missing, cut short, damaged, of another format, or not like `like` (which path differs).
    """
    path = Path(path)
    if not (path / MANIFEST).exists() and not _NAME.fullmatch(path.name):
        path = latest(path)
    manifest = _checked_manifest(path)
    arrays = _arrays(_verified_content(path, manifest))
    if wrap is not None:
        arrays = {name: wrap(array) for name, array in arrays.items()}
    state = arrays if like is None else _arranged(path, like, arrays, manifest)
    return Checkpoint(path, manifest["step"], state, manifest["loader"], manifest["config"], manifest["metadata"])


def _damaged(path: Path, rule: str, value: str) -> CheckpointError:
    return CheckpointError("checkpoint.load", "path", rule, f"{path}: {value}", "load(latest_valid(folder))")


def _checked_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint whose own checksum and whose files' sizes are right."""
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
    except OSError as error:
        raise _damaged(path, f"it must be a folder with {MANIFEST}", error.strerror or str(error)) from error
    except ValueError as error:
        raise _damaged(path, f"{MANIFEST} must be JSON; it is cut short or damaged", str(error)) from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        got = manifest.get("format") if isinstance(manifest, dict) else type(manifest).__name__
        raise _damaged(path, f"{MANIFEST} must be of format {FORMAT}, which this version reads", str(got))
    if manifest.get("sha256") != _fingerprint(manifest):
        got = str(manifest.get("sha256"))
        raise _damaged(path, f"{MANIFEST} must have the SHA-256 it was written with; it is damaged", got)
    for name, entry in manifest["files"].items():
        try:
            size = (path / name).stat().st_size
        except OSError as error:
            raise _damaged(path, f"{name} must be there", error.strerror or str(error)) from error
        if size != entry["bytes"]:
            raise _damaged(path, f"{name} must have {entry['bytes']:,} bytes; it is cut short or damaged", f"{size:,} bytes")
    return manifest


def _verified_content(path: Path, manifest: dict[str, Any]) -> bytes:
    try:
        content = (path / TENSORS).read_bytes()
    except OSError as error:
        raise _damaged(path, f"{TENSORS} must be readable", error.strerror or str(error)) from error
    found, wanted = hashlib.sha256(content).hexdigest(), manifest["files"][TENSORS]["sha256"]
    if found != wanted:
        raise _damaged(path, f"{TENSORS} must have the SHA-256 {wanted[:16]}…; it is damaged", f"{found[:16]}…")
    return content


def _arrays(content: bytes) -> dict[str, np.ndarray]:
    return {
        name: np.frombuffer(entry["data"], _DTYPES[entry["dtype"]]).reshape(entry["shape"])
        for name, entry in _safetensors()[1](content)
    }


def _safetensors() -> tuple[Callable[..., bytes], Callable[..., Any]]:
    """The functions save(dict of arrays) -> bytes and deserialize(bytes) -> [(name, entry)] of safetensors."""
    try:
        from safetensors import deserialize
        from safetensors.numpy import save as serialize
    except ImportError as error:
        raise DependencyError("checkpoint", "", "safetensors must be installed", "", "pip install safetensors") from error
    return serialize, deserialize


def _arranged(path: Path, like: Any, arrays: dict[str, Any], manifest: dict[str, Any]) -> Any:
    """The arrays in the structure of `like`; refuses a tree, shape or dtype that differs, naming the path."""
    leaves, treedef = tree.flatten(like)
    names = tree.paths(like)
    asked = set(names)
    stored = {entry["path"]: (tuple(entry["shape"]), entry["dtype"]) for entry in manifest["tensors"]}
    extra = [f"{name}: not in the tree" for name in stored if name not in asked]
    _refuse(path, "the tree must have every leaf of the checkpoint", extra)
    missing = [f"{name}: not in the checkpoint" for name in names if name not in stored]
    _refuse(path, "the checkpoint must have every leaf of the tree", missing)
    _refuse(path, "shapes and dtypes must be those of the tree", _mismatches(zip(names, leaves, strict=True), stored))
    return tree.unflatten(treedef, [arrays[name] for name in names])


def _mismatches(wanted: Iterable[tuple[str, Any]], stored: dict[str, tuple[tuple[int, ...], str]]) -> list[str]:
    found = []
    for name, leaf in wanted:
        shape, dtype = _type_of(leaf)
        if (shape, dtype) != stored[name]:
            found.append(f"{name}: wanted {dtype}{list(shape)}, got {stored[name][1]}{list(stored[name][0])}")
    return found


def _type_of(leaf: Any) -> tuple[tuple[int, ...], str]:
    if not hasattr(leaf, "dtype"):
        leaf = np.asarray(leaf)
    return tuple(leaf.shape), getattr(leaf.dtype, "name", str(leaf.dtype))


def _refuse(path: Path, rule: str, problems: list[str]) -> None:
    if not problems:
        return
    shown = "; ".join(sorted(problems)[:4]) + (f"; and {len(problems) - 4} more" if len(problems) > 4 else "")
    raise CheckpointError("checkpoint.load", "like", rule, f"{path}: {shown}", "build the model with the run's config")
