"""``--data s3://…`` and ``--out s3://…``: data is copied to the local disk before, results out of it when done.

Databases, memory maps and renames need a local disk, so that nothing of histotune's works on a bucket: a command is
given local folders in place of the bucket's, and what it wrote is copied out when it has ended well.
"""

from __future__ import annotations

import logging
import re
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from histotune.tools.atomic import explained_os_errors, make_folder
from histotune.tools.errors import UserError, collect, raise_together
from histotune.tools.files import canonical_json, hash_bytes, hash_file, json_or_none, user_dir, write_json
from histotune.tools.progress import track

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LOG = logging.getLogger(__name__)
INSTALL = 'pip install "histotune[s3]"'
PLACE = re.compile(r"s3:/+([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/([^\s].*)")
READ, WRITTEN = ("--data", "--pcam"), ("--out",)
LIST_NAME, DONE_NAME = "list.json", "histotune-files.json"
PER_CALL = 64  # files that are copied side by side


def is_bucket(word: str) -> bool:
    """Return whether a word names a place in a bucket."""
    return word.startswith("s3:")


@contextmanager
def local_places(words: Sequence[str], passed_on: Sequence[str] = ()) -> Iterator[list[str]]:
    """Give a command local folders in place of a bucket's; what it wrote is copied out when it ends well.

    Args:
        words: The command line.
        passed_on: Commands whose words go to another machine as they are.

    Yields:
        The command line with local folders.

    Raises:
        UserError: s3fs is missing, a place can't be read or written, or something only works on a local disk.
    """
    places = [] if not words[1:] or words[1] in passed_on else list(_places(words))
    if not places:
        yield list(words)
        return
    _require(places)
    given, results = list(words), []
    root = _cache(words) / "buckets"
    for number, option, place in places:
        local = root / hash_bytes(place)[:24] / PurePosixPath(place).name
        if option in READ:
            fetch(place, local)
        else:
            refuse_strangers(place)
            results.append((place, local))
        given[number] = f"{option}={local}" if "=" in words[number] else str(local)
    yield given
    for place, local in results:
        store(local, place)


def fetch(place: str, local: Path) -> int:
    """Copy what a bucket holds and this disk does not; a file whose size and tag are known is not copied again.

    Args:
        place: ``s3://BUCKET/PREFIX``, a folder or one file.
        local: Where it goes.

    Returns:
        Files that were copied.
    """
    fs, remote = _file_system(), _key(place)
    with _explained(place):
        fs.invalidate_cache()
        found = fs.find(remote, detail=True)
    if not found:
        raise UserError("nothing is there", value=place, fix=f"list it: aws s3 ls {place}")
    listed, known = local.with_name(LIST_NAME), json_or_none(local.with_name(LIST_NAME)) or {}
    tags = {name: f"{facts['size']} {facts.get('ETag') or facts.get('mtime', '')}" for name, facts in found.items()}
    targets = {name: _below(local, remote, name) for name in found}
    new = [name for name in sorted(found) if known.get(name) != tags[name] or not targets[name].is_file()]
    with explained_os_errors(local):
        for start in track(range(0, len(new), PER_CALL), f"fetching {place}", len(range(0, len(new), PER_CALL))):
            part = new[start : start + PER_CALL]
            halves = [targets[name].with_name(f".{targets[name].name}.fetched") for name in part]
            for half in halves:
                make_folder(half.parent)
            with _explained(place):
                fs.get(part, [str(half) for half in halves])
            for name, half in zip(part, halves, strict=True):
                half.replace(targets[name])
            known = {**known, **{name: tags[name] for name in part}}
            write_json(listed, known)
        for name in set(known) - set(found):  # what the bucket no longer has is no part of the data
            _below(local, remote, name).unlink(missing_ok=True)
        write_json(listed, tags)
    LOG.info("%s: %s files, %s copied to %s", place, f"{len(found):,}", f"{len(new):,}", local)
    return len(new)


def refuse_strangers(place: str) -> None:
    """Refuse a place in a bucket that holds files which are no earlier result of histotune's, or can't be written."""
    fs, remote = _file_system(), _key(place)
    with _explained(place):
        fs.invalidate_cache()
        found = set(fs.find(remote))
        if found and f"{remote}/{DONE_NAME}" not in found:
            raise UserError(
                "files that are no result of histotune's lie there, and none is replaced",
                value=place,
                fix=f"name a new place: --out {place}-2",
            )
        probe = f"{remote}/.histotune-probe"
        fs.pipe_file(probe, b"")
        fs.rm_file(probe)


def store(local: Path, place: str) -> int:
    """Copy a result into a bucket; the list of its files comes last, and an earlier result's other files go.

    Args:
        local: A folder that is finished.
        place: ``s3://BUCKET/PREFIX``.

    Returns:
        Files that were copied.
    """
    fs, remote = _file_system(), _key(place)
    files = sorted(path for path in local.rglob("*") if path.is_file())
    names = {path.relative_to(local).as_posix(): hash_file(path) for path in files}
    with _explained(place):
        done = f"{remote}/{DONE_NAME}"
        fs.invalidate_cache()
        earlier = {name for name in fs.find(remote) if name != done} if fs.exists(done) else set()
        if fs.exists(done):
            fs.rm_file(done)  # without it nothing there counts as finished
        fs.put([str(path) for path in files], [f"{remote}/{name}" for name in names])
        for stale in earlier - {f"{remote}/{name}" for name in names}:
            fs.rm_file(stale)
        fs.pipe_file(done, (canonical_json({"files": names}) + "\n").encode())
    LOG.info("%s: %s files copied from %s", place, f"{len(files):,}", local)
    return len(files)


def _places(words: Sequence[str]) -> Iterator[tuple[int, str, str]]:
    """Yield the number of each word that names a place in a bucket, its option and the place."""
    for number, word in enumerate(words):
        option, is_joined, value = word.partition("=")
        if is_joined and option.startswith("--") and is_bucket(value):
            yield number, option, value
        elif number and words[number - 1].startswith("--") and is_bucket(word):
            yield number, words[number - 1], word


def _require(places: Sequence[tuple[int, str, str]]) -> None:
    """Refuse what can't work, all of it at once."""
    errors: list[UserError] = []
    for _, option, place in places:
        with collect(errors):
            if option not in (*READ, *WRITTEN):
                raise UserError(
                    f"{option} works on a local disk alone: databases, memory maps and renames need one",
                    value=place,
                    fix=f"{option} FOLDER; buckets are read by --data and written by --out",
                )
            if PLACE.fullmatch(place) is None:
                raise UserError(f"{option} is no place in a bucket", value=place, allowed="s3://BUCKET/PREFIX")
            if option in WRITTEN and PurePosixPath(place).suffix[1:].isalpha():
                raise UserError(
                    "a single file is not written into a bucket, since others may come beside it",
                    value=place,
                    fix="write it here and copy it: aws s3 cp FILE s3://BUCKET/PREFIX/",
                )
    if find_spec("s3fs") is None:
        errors.append(UserError("buckets need the package s3fs, which is not installed", fix=INSTALL))
    raise_together(errors)


def _cache(words: Sequence[str]) -> Path:
    """Return the cache that a command line names, or the user's."""
    for number, word in enumerate(words):
        if word == "--cache" and number + 1 < len(words):
            return Path(words[number + 1]).expanduser()
        if word.startswith("--cache="):
            return Path(word.removeprefix("--cache=")).expanduser()
    return user_dir("cache")


def _file_system() -> Any:  # noqa: ANN401  (an optional package)
    import fsspec

    return fsspec.filesystem("s3")


def _key(place: str) -> str:
    found = PLACE.fullmatch(place)
    if found is None:
        raise UserError("this is no place in a bucket", value=place, allowed="s3://BUCKET/PREFIX")
    return f"{found[1]}/{found[2].rstrip('/')}"


def _below(local: Path, remote: str, name: str) -> Path:
    """Return where a file goes; a name that would leave the folder is refused."""
    parts = PurePosixPath(name).relative_to(remote).parts
    if any(part == ".." or "\\" in part or "\x00" in part for part in parts):
        raise UserError("a name in this bucket leads out of its folder", value=name, fix="rename it there")
    return local.joinpath(*parts)


@contextmanager
def _explained(place: str) -> Iterator[None]:
    """Turn what goes wrong between here and a bucket into a message; the system's own errors stay what they are."""
    kinds: tuple[type[Exception], ...] = (FileNotFoundError, PermissionError)
    if find_spec("botocore") is not None:
        from botocore.exceptions import BotoCoreError, ClientError

        kinds = (*kinds, BotoCoreError, ClientError)
    try:
        yield
    except kinds as error:
        said = " ".join(str(error).split())
        raise UserError(
            f"the bucket can't be used: {said}",
            value=place,
            fix="check its name and your credentials: aws sts get-caller-identity",
        ) from error
