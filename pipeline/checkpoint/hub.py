"""The Hugging Face Hub: look a repository up, pin its commit, fetch files. Imports its client when used.

The client's own settings hold: `HF_ENDPOINT`, `HF_HOME`, `HF_TOKEN`, `HF_HUB_OFFLINE`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TypeVar

from pipeline.errors import InputError

T = TypeVar("T")

_CONFIGS = frozenset({"config.json", "adapter_config.json"})
_UNKNOWN = (
    "is neither a folder here nor a model on the Hub (or it is private)",
    "check the spelling; for a private one run `hf auth login`; for a folder write ./name",
)


@dataclass(frozen=True)
class Repository:
    """A repository of the Hub at one commit."""

    commit: str
    files: Mapping[str, int]
    """Name -> bytes."""


@cache
def look_up(repo: str, revision: str | None) -> Repository:
    """The commit that a revision (default: the main branch) stands for, and its files."""
    from huggingface_hub import HfApi, constants, hf_hub_download

    if constants.HF_HUB_OFFLINE:
        return _in_cache(repo, revision)
    info = _ask(
        repo, revision, lambda: HfApi().model_info(repo, revision=revision, files_metadata=True)
    )
    files = {file.rfilename: file.size or 0 for file in info.siblings or []}
    # Fetched under the revision's own name, so that the cache can answer for it without the Hub.
    for name in _CONFIGS & files.keys():
        _ask(repo, revision, partial(hf_hub_download, repo, name, revision=revision))
    return Repository(str(info.sha), files)


def download(repo: str, commit: str, names: Sequence[str]) -> Path:
    """Fetch files into the Hub's cache and return the folder that holds them."""
    from huggingface_hub import hf_hub_download

    if not names:
        raise InputError(
            "has none of the files that are needed", where=repo, fix="look at it on the Hub"
        )

    def fetch(name: str) -> Path:
        found = _ask(repo, commit, partial(hf_hub_download, repo, name, revision=commit))
        return Path(found).parents[name.count("/")]

    with ThreadPoolExecutor(max_workers=8) as pool:
        folders = set(pool.map(fetch, names))
    return folders.pop()


def not_cached(repo: str, commit: str, names: Sequence[str]) -> tuple[Path, list[str]]:
    """The folder of the Hub's cache, and those of the files that it does not hold."""
    from huggingface_hub import constants, try_to_load_from_cache

    found = {name: try_to_load_from_cache(repo, name, revision=commit) for name in names}
    missing = [name for name, path in found.items() if not isinstance(path, str)]
    return Path(constants.HF_HUB_CACHE), missing


def read_safetensors_header(repo: str, commit: str, name: str) -> bytes:
    """The first bytes of a safetensors file, to the end of its header, without fetching the rest."""
    from huggingface_hub import hf_hub_url, try_to_load_from_cache
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    cached = try_to_load_from_cache(repo, name, revision=commit)
    if isinstance(cached, str):
        with open(cached, "rb") as file:
            length = file.read(8)
            return length + file.read(int.from_bytes(length, "little"))
    url = hf_hub_url(repo, name, revision=commit)

    def part(first: int, last: int) -> bytes:
        headers = build_hf_headers() | {"Range": f"bytes={first}-{last}"}
        answer = get_session().get(url, headers=headers, timeout=30)
        hf_raise_for_status(answer)
        return bytes(answer.content)[: last - first + 1]

    def read() -> bytes:
        start = part(0, 99_999)
        length = 8 + int.from_bytes(start[:8], "little")
        if len(start) < length <= 100_000_000:
            start += part(len(start), length - 1)
        return start[:length]

    return _ask(repo, commit, read)


def _in_cache(repo: str, revision: str | None) -> Repository:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(repo, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        raise InputError(
            "is not in the Hub's cache, and HF_HUB_OFFLINE forbids to ask the Hub",
            where=repo,
            fix="unset HF_HUB_OFFLINE, or download it beforehand with `hf download`",
        ) from None
    files = {
        p.relative_to(folder).as_posix(): p.stat().st_size for p in folder.rglob("*") if p.is_file()
    }
    return Repository(folder.name, files)


def _ask(repo: str, revision: str | None, question: Callable[[], T]) -> T:
    """Ask the Hub, and say in our words what went wrong."""
    from huggingface_hub import constants, errors

    try:
        return question()
    except errors.GatedRepoError:
        what, fix = (
            "is gated",
            f"accept its terms at {constants.ENDPOINT}/{repo}, then run `hf auth login`",
        )
    except errors.RevisionNotFoundError:
        what, fix = (
            f"has no revision {revision!r}",
            f"see {constants.ENDPOINT}/{repo}/tree/main for what it has",
        )
    except errors.RepositoryNotFoundError:
        what, fix = _UNKNOWN
    except errors.EntryNotFoundError:
        what, fix = (
            "lost a file while it was read",
            "run again; give a commit as `revision` to be safe",
        )
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        what = "is not wholly in the Hub's cache, and the Hub cannot be asked"
        fix = "go online once, or download it beforehand with `hf download`"
    except errors.HfHubHTTPError as error:
        code = error.response.status_code
        what, fix = (
            f"the Hub answered with error {code}",
            "try again later; see https://status.huggingface.co",
        )
        if code == 401:  # how the Hub answers strangers who ask for what is not there
            what, fix = _UNKNOWN
    except (errors.HTTPError, OSError) as error:
        what = f"the Hub at {constants.ENDPOINT} cannot be reached ({type(error).__name__})"
        fix = "check the network; with the model in the cache, set HF_HUB_OFFLINE=1; or give a local folder"
    raise InputError(what, where=repo, fix=fix)
