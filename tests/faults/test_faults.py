"""Every broken merge is caught by the proofs that should, by the right names, and nothing else is accused."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.checkpoint.hashes import hash_files
from pipeline.errors import MergelineError
from pipeline.proof.folder import verify_folder
from pipeline.receipt.record import FILE_NAME, read_receipt
from tests.faults import proofs
from tests.faults.library import FAULTS
from tests.faults.scenes import RIGHT, Scene
from tests.fixtures.session import Session, Silent
from tests.parity.plain import tensors_of

Scenes = Callable[[str], Scene]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Scenes:
    """Right merges by name, each made once."""
    made: dict[str, Scene] = {}

    def get(name: str) -> Scene:
        if name not in made:
            made[name] = Scene(tmp_path_factory.mktemp("scene"), RIGHT[name])
        return made[name]

    return get


def seal(folder: Path) -> None:
    """A receipt that fits the files: as if the one who wrote it had made the mistake."""
    receipt = read_receipt(folder)
    there = [folder / file.name for file in receipt.files if (folder / file.name).is_file()]
    hashes = hash_files(there, lambda done: None)
    files = [
        file.model_copy(update={"blake3": hashes[path], "bytes": path.stat().st_size})
        for file in receipt.files
        if (path := folder / file.name) in hashes
    ]
    (folder / FILE_NAME).write_text(receipt.model_copy(update={"files": files}).to_json())


def session_of(scene: Scene, folder: Path, run: Path) -> Session:
    """As after the `save` that wrote the folder."""
    session = Session(run)
    (saved,) = scene.session.state.folders
    session.run.state = replace(scene.session.state, folders=(replace(saved, path=folder),))
    return session


def found_by_each(session: Session) -> proofs.Found:
    folder = session.state.last_folder()
    assert folder is not None
    return proofs.of_folder(session, folder, read_receipt(folder.path).saved.dtype)


def changed_tensors(right: Path, broken: Path) -> set[str]:
    """Names of the tensors that one folder lacks, or that differ in a bit."""
    one, other = tensors_of(right), tensors_of(broken)
    return one.keys() ^ other.keys() | {
        key for key in one.keys() & other.keys() if _differ(one[key], other[key])
    }


def modules_of(tensors: Iterable[str]) -> set[str]:
    return {key.rpartition(".")[0] for key in tensors}


def _differ(a: torch.Tensor, b: torch.Tensor) -> bool:
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return True
    return not torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))


@pytest.mark.parametrize("name", RIGHT)
def test_the_right_merges_pass(name: str, scenes: Scenes, tmp_path: Path) -> None:
    scene = scenes(name)
    found = found_by_each(session_of(scene, scene.merged, tmp_path / "run"))
    assert found == {proof: {} for proof in proofs.PROOFS}


@pytest.mark.parametrize("name", FAULTS)
def test_a_broken_merge_is_named(
    name: str, scenes: Scenes, tmp_path: Path, record_property: Callable[[str, Any], None]
) -> None:
    fault = FAULTS[name]
    scene = scenes(fault.right)
    folder = shutil.copytree(scene.merged, tmp_path / "merged")
    fault.breaks(folder, scene)
    seal(folder)

    session = session_of(scene, folder, tmp_path / "run")
    found = found_by_each(session)
    caught = [proof for proof in proofs.PROOFS if found[proof]]
    record_property("fault", [name, *caught])
    assert set(caught) == fault.caught, found

    tensors = changed_tensors(scene.merged, folder) if fault.tensors is None else fault.tensors
    accused = {name for said in found.values() for name in said if name}
    assert accused - modules_of(tensors) == tensors | fault.files
    if found["modules"] and "" not in found["modules"]:
        merged = changed_tensors(scene.base, scene.merged)
        assert found["modules"].keys() == modules_of(tensors) & modules_of(merged)

    console: Any = Silent()
    told = verify_folder(folder, None, [], console).faults
    assert {proofs.name_of(one) for one in told} == {*found["accounting"], *found["structure"]}
    with pytest.raises(MergelineError) as stopped:
        session.do("verify", proof="modules")
    assert any(name.removesuffix(".weight") in str(stopped.value) for name in accused)
