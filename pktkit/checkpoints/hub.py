"""Repositories of the Hugging Face hub, from the cache first.

What is cached is used as it is, without asking the hub: a run does not depend on the network,
and does not change because somebody pushed to a branch. A revision that is not cached is
downloaded, unless HF_HUB_OFFLINE says not to.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs

from pktkit.checkpoints.library import short_reason
from pktkit.checkpoints.reference import FORMS, Place
from pktkit.errors import DoesNotFitError, PktkitError, UsageError

LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


@attrs.frozen
class Wanted:
    """What is needed of a repository.

    Arguments:
        patterns: names of the files.
        complete: whether a folder has all that is needed; half a download has not.
    """

    patterns: Sequence[str]
    complete: Callable[[Path], bool]


def fetch(place: Place, wanted: Wanted) -> Path:
    """Return the local folder of a repository at its revision.

    Raises:
        UsageError: it is not cached and the hub does not give it; says why.
        DoesNotFitError: the disk is full.
    """
    folder = cached(place, wanted.patterns)
    if folder is not None and wanted.complete(folder):
        return folder
    try:
        return _download(place, wanted.patterns, local=False)
    except Exception as error:
        raise _refusal(place, error) from error


def cached(place: Place, patterns: Sequence[str]) -> Path | None:
    """Return the cached folder of a repository; None if there is none, or a part as far as known.

    Arguments:
        patterns: names of the files that matter.
    """
    try:
        return _download(place, patterns, local=True)
    except (ValueError, OSError):
        return None


def commit_of(folder: Path) -> str:
    """Return the commit that a folder of the cache holds; empty for any other folder."""
    return folder.name if folder.parent.name == "snapshots" else ""


def _download(place: Place, patterns: Sequence[str], *, local: bool) -> Path:
    from huggingface_hub import snapshot_download

    return Path(
        snapshot_download(
            place.repository,
            revision=place.revision or None,
            allow_patterns=list(patterns),
            local_files_only=local,
        )
    )


def _refusal(place: Place, error: Exception) -> PktkitError:
    """Word why the hub did not give a repository, and what to do."""
    from huggingface_hub import errors as hub

    name, at = place.repository, f"revision '{place.revision}'" if place.revision else "it"
    if isinstance(error, hub.GatedRepoError):
        return UsageError(
            f"'{name}' is gated: accept its terms on its page of the hub, then {LOG_IN}."
        )
    if isinstance(error, hub.RevisionNotFoundError):
        return UsageError(f"'{name}' has no {at}.{_known(place)} Check what stands after '@'.")
    if isinstance(error, hub.RepositoryNotFoundError):
        return UsageError(
            f"there is no model '{name}' on the hub, or it is private. Check the spelling; a model "
            f"is named by {FORMS}. For a private one {LOG_IN}."
        )
    if isinstance(error, hub.HFValidationError):
        return UsageError(f"'{place.text}' is no hub id; a model is named by {FORMS}.")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DoesNotFitError(
            f"'{name}' does not fit the disk of the Hugging Face cache. Make room, or set HF_HOME "
            "to a larger disk."
        )
    if _offline(error):
        what = f"{at} of '{name}'" if place.revision else f"'{name}'"
        return UsageError(
            f"{what} is not in the Hugging Face cache, and HF_HUB_OFFLINE keeps pktkit from asking "
            f"the hub.{_known(place)} Download it once without that setting."
        )
    reason = short_reason(error.__cause__ or error)
    return UsageError(
        f"'{place.text}' is neither on this disk nor in the Hugging Face cache, and the hub cannot "
        f"be reached ({reason}).{_known(place)} Check the network, or download it while online."
    )


def _offline(error: BaseException) -> bool:
    from huggingface_hub.errors import OfflineModeIsEnabled

    return isinstance(error, OfflineModeIsEnabled) or isinstance(
        error.__cause__, OfflineModeIsEnabled
    )


def _known(place: Place) -> str:
    """Return a sentence with the revisions of a repository that are cached; empty for none."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(
        repo_id=place.repository, repo_type="model"
    )
    refs = folder / "refs"
    names = [str(path.relative_to(refs)) for path in sorted(refs.rglob("*")) if path.is_file()]
    names += sorted(path.name for path in folder.glob("snapshots/*"))
    return f" Cached: {', '.join(names[:8])}." if names else ""
