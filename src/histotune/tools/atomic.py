"""Files and folders that appear whole or not at all, whatever kills the process that writes them."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import stat
import sys
import tempfile
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from histotune.tools.errors import UserError, setting_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
NO_WRITE = (errno.EROFS, errno.EACCES, errno.EPERM)
PARTIAL = re.compile(r"\.(?P<name>.+)\.[a-z0-9_]{8}\.partial", re.DOTALL)  # the names that atomic_path makes
SET_ASIDE = re.compile(
    r"\.(?P<name>.+)\.[a-z0-9_]{8}\.old", re.DOTALL
)  # an earlier folder, while another takes its place
FULL_WORDS = re.compile(r"os error (28|122)\b|errno = (28|122)\b|No space left on device|[Dd]isk quota exceeded")
ROOM_BYTES = 4096
SHORT_NAME = 200
TRIES = 100  # at a temporary file that others remove before it is locked
SWAP = 2  # RENAME_EXCHANGE of renameat2
HERE = -100  # AT_FDCWD


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling of ``path`` that replaces it only when the block succeeds.

    The content is flushed to disk before the rename, so a reader sees the old file or the whole new one. What a killed
    process left of the same file is removed: a live process holds a lock on its temporary file.
    """
    with explained_os_errors(path):
        make_folder(path.parent)
        refuse_odd_target(path, folder=False)
        remove_abandoned(path)
        temporary, handle = _make_held(path, _make_file)
        try:
            yield temporary
            _flush_to_disk(temporary)
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
            _close(handle)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``path`` only when the block succeeds, replacing an older one.

    Where the system can exchange two folders in one step (Linux), ``path`` is never missing. Elsewhere the older folder
    is set aside for a moment; :func:`restore_folder` brings it back if the process is killed just then.
    """
    path = _absolute(path)
    with explained_os_errors(path):
        make_folder(path.parent)
        refuse_odd_target(path, folder=True)
        restore_folder(path)
        remove_abandoned(path)
        temporary, handle = _make_held(path, _make_folder)
        try:
            yield temporary
            _open_to_others(temporary)
            _replace_folder(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            _close(handle)


def _open_to_others(folder: Path) -> None:
    """Let others read a finished folder and its files as far as the umask does: some libraries write for their user."""
    allowed = ~_umask()
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | ((0o777 if path.is_dir() else 0o666) & allowed))


@contextmanager
def claimed(*places: Path | None, folder: bool | None = None, is_replaced: bool = True) -> Iterator[None]:
    """Hold places for results from the start of the work to its end; a second process is refused at once.

    What killed processes left of the same results is removed, and an earlier result that was set aside comes back.

    Args:
        places: Files or folders that will be written; None is no place.
        folder: Whether they are folders; None takes what lies there for what is meant.
        is_replaced: Whether what lies there will make room; a folder that only gets further files may be the one that
            one is in.

    Raises:
        UserError: Another process works on the same place, a link or device lies there, or nothing can be written.
    """
    with ExitStack() as stack:
        for path in dict.fromkeys(_absolute(place) for place in places if place is not None):
            stack.enter_context(_claimed(path, path.is_dir() if folder is None else folder, is_replaced))
        yield


@contextmanager
def _claimed(path: Path, folder: bool, is_replaced: bool) -> Iterator[None]:
    import filelock

    missing = [parent for parent in path.parents if not parent.exists()]
    try:
        with explained_os_errors(path):
            make_folder(path.parent)
            if is_replaced:
                refuse_odd_target(path, folder=folder)
            guard = filelock.FileLock(path.with_name(f".{path.name}.lock"))
            try:
                guard.acquire(timeout=0)
            except filelock.Timeout as error:
                raise UserError(
                    "another process is writing there already",
                    value=path,
                    fix="wait for it to finish, or choose another --out",
                ) from error
            except FileNotFoundError as error:  # the folder is there, but nobody makes files in it, as in /proc
                raise PermissionError(errno.EACCES, "no file can be made here", str(path)) from error
        try:
            restore_folder(path)
            remove_abandoned(path)
            _write_something(path)
            yield
        finally:
            with suppress(OSError):
                Path(guard.lock_file).unlink()  # while it is held: whoever waits opens it anew
            guard.release()
    finally:
        for parent in missing:
            with suppress(OSError):  # where nothing was written, no empty folder stays
                parent.rmdir()


def require_writable(path: Path) -> None:
    """Find out before anything is computed whether a file can be written, or added to, when its time comes.

    Args:
        path: A file that need not exist yet; its folder is made.

    Raises:
        UserError: Its folder can't be written or has no room, or something else lies in its place.
    """
    with explained_os_errors(path):
        make_folder(path.parent)
        refuse_odd_target(path.resolve(), folder=False)
        if path.exists():
            os.close(os.open(path, os.O_WRONLY | os.O_APPEND))
        remove_abandoned(path)
        _write_something(path)


def _write_something(path: Path) -> None:
    """Write a few bytes beside a path and remove them: a folder without rights or room shows at once."""
    with explained_os_errors(path):
        try:
            temporary, handle = _make_held(path, _make_file)
        except FileNotFoundError as error:  # the folder is there, and the system makes no files in it, as in /proc
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(path.parent)) from error
        try:
            temporary.write_bytes(bytes(ROOM_BYTES))
            _flush_to_disk(temporary)
        finally:
            temporary.unlink(missing_ok=True)
            _close(handle)


def bring_back(path: Path) -> None:
    """Look for an earlier result that a killed process had set aside, before a folder, or one in it, is read.

    Args:
        path: Folder of a result; nothing happens while a process writes there.
    """
    for place in (_absolute(path), _absolute(path).parent):
        if _siblings(place, SET_ASIDE):
            with suppress(OSError, UserError), claimed(place, folder=True):
                pass


def refuse_odd_target(path: Path, *, folder: bool) -> None:
    """Refuse to replace a link, a device, a pipe, the working folder, a folder by a file or a file by a folder."""
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    if folder and Path.cwd().is_relative_to(path):
        raise UserError(
            "the folder that you are in can't be replaced by another",
            value=path,
            fix="name a new folder in it, such as --out run, or go elsewhere first: cd ..",
        )
    wanted = "folder" if folder else "file"
    if (stat.S_ISDIR if folder else stat.S_ISREG)(mode):
        return
    kinds = (
        (stat.S_ISLNK, f"a link to {path.readlink() if stat.S_ISLNK(mode) else ''}"),
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISREG, "a file"),
        (stat.S_ISFIFO, "a pipe"),
    )
    found = next((words for is_kind, words in kinds if is_kind(mode)), "a device")
    raise UserError(
        f"{found} lies where the {wanted} should go, and it is not replaced",
        value=path,
        fix=f"name a {wanted} that does not exist yet, or one that histotune wrote: {setting_of(path)}",
    )


# ------------------------------------------------------------------------------
# What killed processes left


def unfinished_name(path: Path) -> str | None:
    """Return the name that a half-written file of :func:`atomic_path` was to get; None for any other file.

    Example:
        >>> unfinished_name(Path(".space.json.ab12cd34.partial"))
        'space.json'
    """
    found = PARTIAL.fullmatch(path.name)
    return None if found is None else found["name"]


def remove_abandoned(path: Path) -> None:
    """Remove what killed processes left of a file or folder that is to be written."""
    for found in _siblings(path, PARTIAL):
        remove_if_abandoned(found)


def remove_if_abandoned(path: Path) -> bool:
    """Remove a half-written file or folder that no process writes any more; whoever writes one holds its lock.

    Args:
        path: Named as :func:`unfinished_name` knows it.

    Returns:
        Whether it was removed; False as well where it can't be told, which is where file systems have no locks.
    """
    if path.is_symlink():
        return False
    try:
        handle = _open_folder(path) if path.is_dir() else os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        abandoned = _hold(handle)
        if abandoned:
            remove_tree(path)
        return abandoned
    finally:
        _close(handle)


def restore_folder(path: Path) -> None:
    """Bring a folder back that a killed process had set aside; where its successor is in place, it goes."""
    for found in _siblings(path, SET_ASIDE):
        if path.exists() or not any(found.iterdir()):
            remove_tree(found)
        else:
            found.replace(path)


def remove_tree(path: Path) -> None:
    """Remove a file or a folder with all in it, if it is there; no link is followed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _siblings(path: Path, pattern: re.Pattern[str]) -> list[Path]:
    """Return what lies beside a path under the temporary names made from its own."""
    beginning = f".{path.name}."
    with suppress(OSError), os.scandir(path.parent) as entries:
        names = [entry.name for entry in entries if entry.name.startswith(beginning)]
        return [path.with_name(name) for name in sorted(names) if _named_after(path.name, pattern, name)]
    return []


def _named_after(name: str, pattern: re.Pattern[str], sibling: str) -> bool:
    found = pattern.fullmatch(sibling)
    return found is not None and found["name"] == name


# ------------------------------------------------------------------------------
# What the system refuses, in words


@contextmanager
def explained_os_errors(path: Path) -> Iterator[None]:
    """Turn a full disk, a folder without write permission or too long a name into a UserError naming ``path``.

    Libraries that write files themselves lose the system's error number on the way; then their words tell.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        explained = _explained(error, path)
        if explained is None:
            raise
        raise explained from error


def is_full_disk(error: BaseException) -> bool:
    """Return whether an error, of whatever library, says that there is no room left on the disk."""
    number = error.errno if isinstance(error, OSError) else None
    return number in FULL_DISK or (number is None and FULL_WORDS.search(str(error)) is not None)


def _explained(error: Exception, path: Path) -> UserError | None:
    number = error.errno if isinstance(error, OSError) else None
    setting = setting_of(path)
    if is_full_disk(error):
        return UserError(
            "the disk is full; nothing was left half-written",
            value=path,
            fix=f"free space on {path.parent} or choose another folder: {setting}",
        )
    if number in NO_WRITE:
        return UserError(
            "this folder can't be written",
            value=path.parent,
            fix=f"choose a folder that you own, with {setting}, or change the permissions of this one",
        )
    if number == errno.ENAMETOOLONG:
        return UserError(
            "this name is longer than the file system allows",
            value=path.name if len(path.name) > SHORT_NAME else path,
            fix=f"choose a shorter one: {setting}",
        )
    return None


def make_folder(folder: Path) -> None:
    """Make a folder with its parents, if it isn't there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError, FileNotFoundError) as error:
        found = next((part for part in (folder, *folder.parents) if part.exists()), folder)
        what = "a file stands where a folder should be" if found.is_file() else "no folder can be made here"
        raise UserError(what, value=found, fix=f"choose another folder: {setting_of(folder)}") from error


# ------------------------------------------------------------------------------
# Locks on temporary files, and the exchange of folders


def _make_held(path: Path, make: Callable[[Path], tuple[Path, int | None]]) -> tuple[Path, int | None]:
    """Make a temporary file or folder beside a path and hold its lock.

    Between the two another process may take it for abandoned, and remove it: then it is made again.
    """
    for _ in range(TRIES):
        temporary, handle = make(path)
        _hold(handle, wait=True)
        if temporary.exists():
            return temporary, handle
        _close(handle)
    raise OSError(errno.EAGAIN, "other processes keep removing temporary files", str(path))


def _make_file(path: Path) -> tuple[Path, int | None]:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
    return Path(name), handle


def _make_folder(path: Path) -> tuple[Path, int | None]:
    folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial"))
    try:
        return folder, _open_folder(folder)
    except FileNotFoundError:  # removed already, by a process that took it for abandoned
        return folder, None


def _hold(handle: int | None, *, wait: bool = False) -> bool:
    """Take the lock of an open file or folder; False where another process has it, or none can be had."""
    if handle is None or sys.platform == "win32":
        return False
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held by another process, or a file system without locks
        return False
    return True


def _close(handle: int | None) -> None:
    if handle is not None:
        os.close(handle)


def _open_folder(path: Path) -> int | None:
    """Open a folder so that it can be locked; None where folders can't be opened."""
    return None if sys.platform == "win32" else os.open(path, os.O_RDONLY)


def _replace_folder(temporary: Path, path: Path) -> None:
    """Move a finished folder into place; an older one changes places with it, or steps aside first."""
    if not path.exists():
        temporary.replace(path)
    elif not _exchange(temporary, path):
        old = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".old"))
        path.replace(old)
        try:
            temporary.replace(path)
        except OSError:
            old.replace(path)
            raise
        shutil.rmtree(old, ignore_errors=True)


def _exchange(first: Path, second: Path) -> bool:
    """Let two folders change places in one step; False where the system or the file system can't."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):  # a C library without it
        return False
    return int(rename(HERE, os.fsencode(first), HERE, os.fsencode(second), SWAP)) == 0


def _flush_to_disk(path: Path) -> None:
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100  (resolve() would follow the links that are to be refused)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
