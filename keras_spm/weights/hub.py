"""Downloads from the Hugging Face hub, verified by hash.

huggingface_hub downloads, caches and locks, but it does not verify the bytes: a file of the
right length with wrong contents would stay in its cache. Here every file is compared with
the hash that the hub declares for it.
"""

import contextlib
import dataclasses
import hashlib
import pathlib
import re
from collections.abc import Sequence

from keras_spm.types import PathLike
from keras_spm.weights.errors import DownloadError
from keras_spm.weights.formats import WEIGHT_FILES, sha256_of, shard_names

SCHEME = "hf://"
# No "..": parts of the address become parts of paths in the cache.
_ADDRESS = re.compile(
    r"hf://(?!.*\.\.)(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>\w[\w./-]*))?", re.ASCII
)
_PROCESSOR = "preprocessor_config.json"


def is_address(name: PathLike) -> bool:
    """Returns whether a preset name is an address on the hub."""
    return str(name).startswith(SCHEME)


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """A hub repository at one commit, with its configuration downloaded.

    Attributes:
        repository: `owner/name`.
        folder: path in huggingface_hub's cache, with `config.json`, and
            `preprocessor_config.json` if the repository has one.
    """

    repository: str
    folder: pathlib.Path

    @property
    def commit(self) -> str:
        """The commit that the requested branch or tag points to."""
        return self.folder.name


def fetch_snapshot(address: str) -> Snapshot:
    """Downloads a model's configuration, or reads it from huggingface_hub's cache.

    The environment variables HF_HUB_OFFLINE, HF_HOME, HF_ENDPOINT and HF_TOKEN have their
    usual effect.

    Args:
        address: `"hf://owner/name"` or `"hf://owner/name@revision"`.

    Raises:
        DownloadError: if a file cannot be downloaded; lists what the user can do.
        ValueError: for an invalid address.
    """
    repository, revision = parse_address(address)
    config = _fetch(repository, revision or "main", "config.json")
    # All further files come from the same commit.
    snapshot = Snapshot(repository, config.parent)
    _fetch(repository, snapshot.commit, _PROCESSOR, optional=True)
    return snapshot


def fetch_weights(snapshot: Snapshot, sha256: str | None = None) -> pathlib.Path:
    """Downloads a snapshot's weights into its folder, or finds them in the cache.

    Args:
        snapshot: from `fetch_snapshot`.
        sha256: expected hash of the weight file, or `None` to trust the hub.

    Returns:
        The path of the weight file, or of the index of several files.

    Raises:
        DownloadError: as in `fetch_snapshot`, and if the hash differs.
    """
    repository, commit = snapshot.repository, snapshot.commit
    found = (_fetch(repository, commit, name, optional=True) for name in WEIGHT_FILES)
    weights = next((path for path in found if path is not None), None)
    if weights is None:
        what = f"weights of {SCHEME}{repository} (revision {commit})"
        raise _failure(what, f"the repository has none of {', '.join(WEIGHT_FILES)}")
    if sha256 is not None and (found := sha256_of(weights)) != sha256:
        raise DownloadError(
            f"{weights.name} of {SCHEME}{repository} (revision {commit}) is not the expected "
            f"file: its sha256 is {found}, expected {sha256}. To load it anyway, pass "
            f"{SCHEME}{repository}@{commit} as the name."
        )
    for shard in shard_names(weights):
        _fetch(repository, commit, shard)
    return weights


def upload_files(folder: PathLike, names: Sequence[str], address: str, private: bool) -> str:
    """Uploads files of a folder in one commit, into a new repository if it does not exist.

    Returns the address of the commit. Raises errors of huggingface_hub.
    """
    import huggingface_hub

    repository, revision = parse_address(address)
    api = huggingface_hub.HfApi()
    api.create_repo(repository, private=private, exist_ok=True)
    commit = api.upload_folder(
        repo_id=repository, folder_path=folder, revision=revision, allow_patterns=list(names)
    )
    return f"{SCHEME}{repository}@{commit.oid}"


def parse_address(address: str) -> tuple[str, str | None]:
    """Returns (`owner/name`, revision or None); raises ValueError for another address."""
    match = _ADDRESS.fullmatch(str(address))
    if match is None:
        raise ValueError(
            "An address on the hub must be hf://owner/name or hf://owner/name@revision. "
            f"Received: {address!r}"
        )
    return match["repository"], match["revision"]


def _fetch(repository, revision, filename, optional=False):
    """Returns the path of one file in the cache; None if an optional file does not exist."""
    import huggingface_hub
    from huggingface_hub import errors

    no_repository = "there is no such repository or revision, or it is private"
    reasons = {  # Of an error, the first that matches: some classes are subclasses of others.
        DownloadError: "download incomplete or corrupt",
        errors.LocalEntryNotFoundError: "it is not in the cache and the hub cannot be reached",
        errors.EntryNotFoundError: "there is no such file",
        errors.GatedRepoError: "access is restricted: request it on the model's page and log in "
        "(`hf auth login`)",
        errors.RepositoryNotFoundError: no_repository,
        errors.RevisionNotFoundError: no_repository,
    }
    try:
        path = huggingface_hub.hf_hub_download(repository, filename, revision=revision)
        _check_bytes(pathlib.Path(path))
        return pathlib.Path(path)
    except Exception as error:  # Also any error of the network or the disk.
        kind = next((kind for kind in reasons if isinstance(error, kind)), None)
        if optional and kind is errors.LocalEntryNotFoundError:
            known = huggingface_hub.try_to_load_from_cache(repository, filename, revision=revision)
            if known is huggingface_hub._CACHED_NO_EXIST:
                return None
        if optional and kind is errors.EntryNotFoundError:
            return None
        what = f"{filename} of {SCHEME}{repository} (revision {revision})"
        raise _failure(what, reasons.get(kind, type(error).__name__), error) from error


def _failure(what, reason, error=None):
    from huggingface_hub import constants

    details = "" if error is None else f"{error.__cause__ or error}\n"
    return DownloadError(
        f"Could not download {what}: {reason}.\n{details}"
        f"The cache is {constants.HF_HUB_CACHE} (set HF_HOME to move it). You can: download on "
        "a machine with a network and copy the cache; pass a local folder instead of the name; "
        "or pass `load_weights=False` for random weights."
    )


def _check_bytes(path):
    """Compares a file with the hash that the hub declared, and removes it if they differ.

    The file's name in the cache is that hash: sha256 for a large file, git's blob hash for
    a small one.
    """
    blob = path.resolve()
    declared = blob.name
    if len(declared) == 64:
        digest = hashlib.sha256()
    elif len(declared) == 40:
        digest = hashlib.sha1(f"blob {blob.stat().st_size}\0".encode(), usedforsecurity=False)
    else:  # The cache of a system without symbolic links does not keep the hash.
        return
    with blob.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    if digest.hexdigest() != declared:
        with contextlib.suppress(OSError):  # The cache may be read-only.
            for link_or_file in (path, blob):
                link_or_file.unlink(missing_ok=True)
        raise DownloadError(
            f"Its hash is {digest.hexdigest()[:12]}…, expected {declared[:12]}…. "
            + ("Remove it from the cache." if blob.exists() else "It was removed; try again.")
        )
