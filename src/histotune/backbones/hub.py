"""Files of Hugging Face hub repositories: from the local cache where they are, downloaded only where they are not."""

from __future__ import annotations

from pathlib import Path

from histotune.tools.errors import UserError


def cached_file(repository: str, name: str, revision: str) -> Path | None:
    """Return a file of the local hub cache without touching the network; None where it is not there.

    Args:
        repository: Such as "kaiko-ai/midnight".
        name: File name within the repository.
        revision: Commit, tag or branch; empty means "main".

    Returns:
        Its path, whose parent folder is named by the commit.
    """
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, name, revision=revision or "main")
    return Path(found) if isinstance(found, str) else None


def hub_file(repository: str, name: str, revision: str, *, optional: bool = False) -> Path | None:
    """Return a file of a hub repository, from the cache or else by download.

    Args:
        repository: Such as "kaiko-ai/midnight".
        name: File name within the repository.
        revision: Commit, tag or branch; empty means "main".
        optional: Return None where the repository has no such file.

    Returns:
        Its path in the local cache.

    Raises:
        UserError: No such repository, revision or file; access not granted; or no connection.
    """
    found = cached_file(repository, name, revision)
    if found is not None:
        return found
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return Path(hf_hub_download(repository, name, revision=revision or "main"))
    except GatedRepoError as error:
        raise _gated(repository) from error
    except RepositoryNotFoundError as error:
        raise _absent(repository) from error
    except RevisionNotFoundError as error:
        raise UserError(f"{repository} has no such revision", value=revision,
                        fix=f"see https://huggingface.co/{repository}/commits/main") from error  # fmt: skip
    except LocalEntryNotFoundError as error:
        raise _offline(repository, name, revision) from error
    except EntryNotFoundError as error:
        if optional:
            return None
        raise UserError(f"{repository} has no such file", value=name,
                        fix="choose a repository that holds weights as safetensors") from error  # fmt: skip
    except HfHubHTTPError as error:
        raise UserError("the hub refused the download", value=f"{repository}/{name}",
                        fix="`hf auth whoami` shows the token in use; try again later") from error  # fmt: skip
    except OSError as error:
        raise _offline(repository, name, revision) from error


def commit_of(path: Path) -> str:
    """Return the commit that a file of the local hub cache belongs to."""
    return path.parent.name


def _gated(repository: str) -> UserError:
    return UserError(
        "this backbone is gated and access was not granted",
        value=repository,
        fix=f"accept its licence at https://huggingface.co/{repository}, then run `hf auth login`",
    )


def _absent(repository: str) -> UserError:
    return UserError(
        "the hub has no such repository, or it is private",
        value=repository,
        fix="check the name on https://huggingface.co; for a private one run `hf auth login`",
    )


def _offline(repository: str, name: str, revision: str) -> UserError:
    at = f" --revision {revision}" if revision else ""
    return UserError(
        f"{name} of this backbone is not in the local cache and the hub can't be reached",
        value=repository,
        fix=f"with a connection run `hf download {repository}{at}`, or pass --backbone a local folder",
    )
