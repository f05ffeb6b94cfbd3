"""Put a folder or file under its name only when it is complete.

A folder is written beside its target, under a hidden name, and renamed when all of it is on disk. A
lock beside the target keeps a second run out, and lets the next run clear up after one that was killed.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pipeline.blueprint import Blueprint, State
from pipeline.checkpoint.beside import beside, leftovers
from pipeline.checkpoint.journal import FILE_NAME as JOURNAL
from pipeline.checkpoint.journal import has_finished, tidy
from pipeline.checkpoint.lock import only_writer
from pipeline.checkpoint.pending import pending_folder
from pipeline.checkpoint.rename import exchange, rename_new
from pipeline.checkpoint.source import is_path
from pipeline.checkpoint.textjson import parse_object
from pipeline.disk import no_room
from pipeline.errors import InputError, MergelineError, OutputError, Refused


def check_target(path: Path, *, overwrite: bool, inputs: Sequence[Path]) -> None:
    """Raise OutputError unless a folder may be written at `path`.

    `inputs` are the folders that are read; the target may not be one of them, in one, or around one.
    """
    real = path.expanduser().resolve()
    for folder in inputs:
        source = folder.expanduser().resolve()
        if real == source or real in source.parents or source in real.parents:
            raise OutputError(
                f"the target {_relation(real, source)} {folder}, which is read",
                where=path,
                fix="choose a folder apart from the base and the adapters",
            )
    if path.is_symlink():
        raise OutputError(
            "is a symbolic link", where=path, fix=f"write to the folder itself: {path.resolve()}"
        )
    if not path.exists():
        _check_writable(real)
        return
    if not path.is_dir():
        raise OutputError(
            "is a file, and a folder is to be written", where=path, fix="choose another name"
        )
    if not overwrite:
        raise OutputError(
            "exists already",
            where=path,
            fix="choose another folder, or set `overwrite: true` to replace it",
        )
    why = _why_keep(path)
    if why:
        raise OutputError(
            f"will not be replaced: {why}",
            where=path,
            fix="choose another folder, or remove this one yourself",
        )
    _check_writable(real)


def refuse_target(
    path: Path, before: State, after: State, *, overwrite: bool, inputs: Sequence[Path] = ()
) -> None:
    """Raise Refused when a step may not write a folder at `path`; planning then goes on with `after`.

    `inputs` are read besides the base and the adapters.
    """
    assert before.blueprint is not None
    if pending_folder(str(path), None, before):
        raise Refused(
            f"an earlier step writes {path} already",
            fix="choose another folder",
            key="path",
            otherwise=after,
        )
    try:
        check_target(path, overwrite=overwrite, inputs=[*input_folders(before.blueprint), *inputs])
    except OutputError as error:
        raise Refused(error.what, fix=error.fix, key="path", otherwise=after) from error


def input_folders(blueprint: Blueprint) -> list[Path]:
    """The local folders that the blueprint's base and adapters are read from."""
    references = [blueprint.base.model, *(adapter.path for adapter in blueprint.all_adapters)]
    return [Path(reference).expanduser() for reference in references if is_path(reference)]


@contextmanager
def publishing(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """A folder to write into, which becomes `path` when the block ends well.

    When the block raises, `path` is as it was, and what the block wrote is removed, save for files that
    its journal holds finished: they are kept for the same work to go on with, unless the error is one of
    ours. Raises OutputError when the target may not be written, another run is writing it, or there is no
    room for it.
    """
    path = path.expanduser().absolute()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _as_output_error(error, path) from error
    with only_writer(path):
        _clear_leftovers(path)
        check_target(path, overwrite=overwrite, inputs=())
        partial = beside(path, "partial")
        try:
            partial.mkdir()
            yield partial
            _finish(partial)
            check_target(path, overwrite=overwrite, inputs=())  # it may have come up meanwhile
            if path.exists():
                exchange(partial, path, aside=beside(path, "replaced"))
            else:
                rename_new(partial, path)
            _sync(path.parent)
        except BaseException as error:
            kept = not isinstance(error, MergelineError) and tidy(partial)
            if not kept:
                shutil.rmtree(partial, ignore_errors=True)
            if isinstance(error, Exception) and no_room(error):
                raise _as_output_error(error, path, kept=partial if kept else None) from error
            raise
        for left in leftovers(path, "partial"):  # the old folder, and what nobody went on with
            shutil.rmtree(left, ignore_errors=True)


def write_atomic(path: Path, text: str) -> None:
    """Write a file so that a reader, or a crash, sees the old text or the new one and nothing between."""
    partial = beside(path, "partial")
    try:
        with open(partial, "x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        _sync(path.parent)
    except OSError as error:
        raise _as_output_error(error, path) from error
    finally:
        partial.unlink(missing_ok=True)


def _relation(target: Path, source: Path) -> str:
    if target == source:
        return "is"
    return "lies in" if source in target.parents else "holds"


def _why_keep(folder: Path) -> str | None:
    """Why an existing folder is too precious to replace, or None."""
    real, here = folder.resolve(), Path.cwd()
    if real in (Path.home(), here, *here.parents):
        return "you work in it or it is your home"
    names = {entry.name for entry in folder.iterdir()}
    if not names:
        return None
    if ".git" in names:
        return "it is a git repository"
    if _holds(folder / "config.json", "model_type", "architectures"):
        return None
    if _holds(folder / "adapter_config.json", "peft_type"):
        return None
    return "it does not look like a model or an adapter"


def _holds(file: Path, *keys: str) -> bool:
    try:
        known = parse_object(file.read_bytes(), where=file)
    except (OSError, InputError):
        return False
    return any(key in known for key in keys)


def _check_writable(path: Path) -> None:
    parent = next(p for p in path.parents if p.exists())
    if not parent.is_dir():
        raise OutputError(f"{parent} is a file, so no folder can be made in it", where=path)
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(
            f"no right to write into {parent}",
            where=path,
            fix="choose a folder that you may write to",
        )


def _clear_leftovers(path: Path) -> None:
    """What a killed run left beside the target. The lock is held, so nobody is writing these."""
    for aside in leftovers(path, "replaced"):
        if path.exists():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.rename(path)
    for partial in leftovers(path, "partial"):
        if not has_finished(partial):
            shutil.rmtree(partial, ignore_errors=True)


def _finish(folder: Path) -> None:
    """Put everything on disk, readable for whom the user's umask allows: safetensors always writes 0600."""
    allowed = stat.S_IMODE(folder.stat().st_mode) & 0o666  # the folder was made under that umask
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent) / name
            path.chmod(stat.S_IMODE(path.stat().st_mode) | allowed)
            _sync(path)
        _sync(Path(parent))
    (folder / JOURNAL).unlink(missing_ok=True)
    _sync(folder)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _as_output_error(error: BaseException, path: Path, *, kept: Path | None = None) -> OutputError:
    """`kept` is the partial folder, where it holds what the same run can go on from."""
    if lack := no_room(error):
        left = f"; what is finished stays in {kept}, for the same run to go on" if kept else ""
        return OutputError(
            f"{lack.what}; nothing was left under the output's name{left}", where=path, fix=lack.fix
        )
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return OutputError(
        f"cannot be written: {reason}", where=path, fix="choose a folder that you may write to"
    )
