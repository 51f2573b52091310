"""Files of Hugging Face's hub, whole or not at all.

Downloading, caching and locking are huggingface_hub's. What it does not do is to look at
the bytes: a file of the right length and wrong contents would stay in its cache. Here
every file is compared with the hash that the hub has declared for it.
"""

import contextlib
import dataclasses
import hashlib
import pathlib
import re

from keras_spm.weights.errors import DownloadError
from keras_spm.weights.formats import WEIGHT_FILES
from keras_spm.weights.formats import sha256_of
from keras_spm.weights.formats import shard_names

SCHEME = "hf://"
# No part of it is a step upwards.
_ADDRESS = re.compile(
    r"hf://(?!.*\.\.)(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>\w[\w./-]*))?",
    re.ASCII,
)
_PROCESSOR = "preprocessor_config.json"


def is_address(name):
    """Whether a preset name is an address on the hub."""
    return str(name).startswith(SCHEME)


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """A repository of the hub at one commit, of which the configuration has been fetched.

    Attributes:
        repository: `owner/name`.
        folder: path in the hub's cache, with `config.json`, and `preprocessor_config.json`
            where there is one.
    """

    repository: str
    folder: pathlib.Path

    @property
    def commit(self):
        """The commit, whatever branch or tag was asked for."""
        return self.folder.name


def fetch_snapshot(address):
    """Downloads a model's configuration, or takes it from the hub's cache.

    Args:
        address: `"hf://owner/name"`, with `"@revision"` (a branch, tag or commit) behind
            it or not. The environment's HF_HUB_OFFLINE, HF_HOME, HF_ENDPOINT and HF_TOKEN
            count as everywhere with huggingface_hub.

    Returns:
        A `Snapshot`.

    Raises:
        DownloadError: names the file, where it would be cached, and the ways on. Nothing
            half-done stays in the cache.
        ValueError: for an address that is none.
    """
    repository, revision = parse_address(address)
    config = _fetch(repository, revision or "main", "config.json")
    # The commit that the name stood for just now: all files come from the same.
    snapshot = Snapshot(repository, config.parent)
    _fetch(repository, snapshot.commit, _PROCESSOR, optional=True)
    return snapshot


def fetch_weights(snapshot, sha256=None):
    """Downloads a snapshot's weights into its folder, or takes them from the hub's cache.

    Args:
        snapshot: from `fetch_snapshot`.
        sha256: of the weight file, where it is known; else the hub is believed.

    Returns:
        Path of the weight file, or of the index of several.

    Raises:
        DownloadError: as `fetch_snapshot`, and where the file is another.
    """
    repository, commit = snapshot.repository, snapshot.commit
    found = (_fetch(repository, commit, each, optional=True) for each in WEIGHT_FILES)
    weights = next((path for path in found if path is not None), None)
    if weights is None:
        where = f"Weights of {SCHEME}{repository} (revision {commit})"
        raise _failure(where, f"it holds none of {', '.join(WEIGHT_FILES)}")
    if sha256 is not None and (found := sha256_of(weights)) != sha256:
        raise DownloadError(
            f"{weights.name} of {SCHEME}{repository} (revision {commit}) is another file than "
            f"expected: its sha256 is {found}, not {sha256}. Pass "
            f"{SCHEME}{repository}@{commit} as the name to load it all the same."
        )
    for shard in shard_names(weights):
        _fetch(repository, commit, shard)
    return weights


def upload_folder(folder, address, private):
    """Uploads a folder in one commit; makes the repository where there is none.

    Returns:
        Address of the commit.

    Raises:
        huggingface_hub.errors.HfHubHTTPError: where the hub refuses.
        ValueError: for an address that is none.
    """
    import huggingface_hub

    repository, revision = parse_address(address)
    api = huggingface_hub.HfApi()
    api.create_repo(repository, private=private, exist_ok=True)
    commit = api.upload_folder(repo_id=repository, folder_path=folder, revision=revision)
    return f"{SCHEME}{repository}@{commit.oid}"


def parse_address(address):
    """(`owner/name`, revision or None) of an address.

    Raises:
        ValueError: for an address that is none.
    """
    match = _ADDRESS.fullmatch(str(address))
    if match is None:
        raise ValueError(
            f"An address on the hub reads hf://owner/name or hf://owner/name@revision. "
            f"Received: {address!r}"
        )
    return match["repository"], match["revision"]


def _fetch(repository, revision, filename, optional=False):
    """Path of one file in the hub's cache; None where an optional one does not exist."""
    import huggingface_hub
    from huggingface_hub import errors

    where = f"{filename} of {SCHEME}{repository} (revision {revision})"
    try:
        path = huggingface_hub.hf_hub_download(repository, filename, revision=revision)
        _check_bytes(pathlib.Path(path))
    except DownloadError as error:
        why = "its bytes are not those that the hub declared"
        raise _failure(where, why, error) from error
    except errors.LocalEntryNotFoundError as error:
        known = huggingface_hub.try_to_load_from_cache(repository, filename, revision=revision)
        if optional and known is huggingface_hub._CACHED_NO_EXIST:
            return None
        why = "it is not in the cache and cannot be reached"
        raise _failure(where, why, error) from error
    except errors.EntryNotFoundError as error:
        if optional:
            return None
        raise _failure(where, "there is no such file", error) from error
    except errors.GatedRepoError as error:
        why = "access is restricted: ask for it on its page and log in (`hf auth login`)"
        raise _failure(where, why, error) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        why = "there is no such repository or revision, or it is private"
        raise _failure(where, why, error) from error
    except Exception as error:  # Whatever the network or the disk does underneath.
        raise _failure(where, type(error).__name__, error) from error
    return pathlib.Path(path)


def _failure(where, why, error=None):
    from huggingface_hub import constants

    details = "" if error is None else f"{error.__cause__ or error}\n"
    return DownloadError(
        f"{where} could not be had: {why}.\n{details}"
        f"It would be cached in {constants.HF_HUB_CACHE} (HF_HOME moves the cache). Ways on: put "
        "it there (download on a machine with a network and copy the cache), pass a local folder "
        "instead of the name, or pass `load_weights=False` for random weights."
    )


def _check_bytes(path):
    """Refuses, and removes, a file whose bytes are not what the hub declared.

    The cache calls a file by that declaration: the sha256 of a large file, git's hash of
    a small one.

    Raises:
        DownloadError: for other bytes.
        OSError: where the file cannot be read, as when another process has removed it.
    """
    blob = path.resolve()
    declared = blob.name
    if len(declared) == 64:
        digest = hashlib.sha256()
    elif len(declared) == 40:
        digest = hashlib.sha1(f"blob {blob.stat().st_size}\0".encode(), usedforsecurity=False)
    else:  # A system without links keeps no declaration.
        return
    with blob.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    if digest.hexdigest() != declared:
        with contextlib.suppress(OSError):  # In a cache that cannot be written it stays.
            for each in (path, blob):
                each.unlink(missing_ok=True)
        raise DownloadError(
            f"Their hash is {digest.hexdigest()[:12]}… and not {declared[:12]}…. "
            + ("It stays there; remove it." if blob.exists() else "It was removed; try again.")
        )
