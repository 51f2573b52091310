"""Files of Hugging Face's hub, whole or not at all.

Downloading, caching and locking are huggingface_hub's. What it does not do is to look at
the bytes: a file of the right length and wrong contents would stay in its cache. Here
every file is compared with the hash that the hub has declared for it.
"""

import hashlib
import pathlib
import re

from keras_spm.weights.errors import DownloadError
from keras_spm.weights.formats import WEIGHT_FILES
from keras_spm.weights.formats import shard_names

SCHEME = "hf://"
_NAME = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", re.ASCII)
_PROCESSOR = "preprocessor_config.json"


def is_address(name):
    """Whether a preset name is an address on the hub."""
    return str(name).startswith(SCHEME)


def fetch_folder(address):
    """Downloads a model's configuration and weights, or takes them from the hub's cache.

    Args:
        address: `"hf://owner/name"`, with `"@revision"` (a branch, tag or commit) behind
            it or not. The environment's HF_HUB_OFFLINE, HF_HOME, HF_ENDPOINT and HF_TOKEN
            count as everywhere with huggingface_hub.

    Returns:
        Path of a folder with `config.json`, the weights, and `preprocessor_config.json`
        where there is one.

    Raises:
        DownloadError: names the file, where it would be cached, and the ways on. Nothing
            half-done stays in the cache.
        ValueError: for an address that is none.
    """
    name = str(address).removeprefix(SCHEME)
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"An address on the hub reads hf://owner/name or hf://owner/name@revision. "
            f"Received: {address!r}"
        )
    repository, _, revision = name.partition("@")
    config = _fetch(repository, revision or "main", "config.json")
    # The commit that the name stood for just now: all files come from the same.
    commit = config.parent.name
    _fetch(repository, commit, _PROCESSOR, optional=True)
    found = (_fetch(repository, commit, each, optional=True) for each in WEIGHT_FILES)
    weights = next((path for path in found if path is not None), None)
    if weights is None:
        raise DownloadError(f"{address} holds none of {', '.join(WEIGHT_FILES)}.")
    for shard in shard_names(weights):
        _fetch(repository, commit, shard)
    return config.parent


def _fetch(repository, revision, filename, optional=False):
    """Path of one file in the hub's cache; None where an optional one does not exist."""
    import huggingface_hub
    from huggingface_hub import constants
    from huggingface_hub import errors

    cache = pathlib.Path(constants.HF_HUB_CACHE)
    where = f"{filename} of {SCHEME}{repository} (revision {revision})"
    try:
        path = huggingface_hub.hf_hub_download(repository, filename, revision=revision)
    except errors.LocalEntryNotFoundError as error:
        known = huggingface_hub.try_to_load_from_cache(repository, filename, revision=revision)
        if optional and known is huggingface_hub._CACHED_NO_EXIST:
            return None
        why = "it is not in the cache and cannot be reached"
        raise _failure(where, cache, why, error) from error
    except errors.EntryNotFoundError as error:
        if optional:
            return None
        raise _failure(where, cache, "there is no such file", error) from error
    except errors.GatedRepoError as error:
        why = "access is restricted: ask for it on its page and log in (`hf auth login`)"
        raise _failure(where, cache, why, error) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        why = "there is no such repository or revision, or it is private"
        raise _failure(where, cache, why, error) from error
    except Exception as error:  # Whatever the network or the disk does underneath.
        raise _failure(where, cache, type(error).__name__, error) from error
    _check_bytes(pathlib.Path(path), where)
    return pathlib.Path(path)


def _failure(where, cache, why, error):
    return DownloadError(
        f"{where} could not be had: {why}.\n{error.__cause__ or error}\n"
        f"It would be cached in {cache}. Ways on: put it there (download on a machine with a "
        "network and copy the cache), pass a local folder instead of the name, or pass "
        "`load_weights=False` for random weights."
    )


def _check_bytes(path, where):
    """Refuses, and removes, a file whose bytes are not what the hub declared.

    The cache calls a file by that declaration: the sha256 of a large file, git's hash of
    a small one.
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
        for each in (path, blob):
            each.unlink(missing_ok=True)
        raise DownloadError(
            f"{where} arrived with other bytes than the hub declared "
            f"({digest.hexdigest()[:12]}… for {declared[:12]}…). It was removed; try again."
        )
