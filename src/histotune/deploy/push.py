"""An exported folder, or a head's own, on a model hub: first a list of what would go there, then the upload."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from histotune.deploy.bundle import ADAPTER_BESIDE, BUNDLE_FILE, save_bundle
from histotune.deploy.card import CARD_FILE, CardFacts, card_text
from histotune.deploy.export_job import EXPORT_FILE
from histotune.heads.reference import TrainingReference
from histotune.heads.saved_head import FACTS_FILE, WEIGHTS_FILE
from histotune.tools.errors import UserError
from histotune.tools.files import is_regular_file, read_json, readable_bytes
from histotune.tools.provenance import redact

if TYPE_CHECKING:
    from collections.abc import Iterator

REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
HEAD_FILES = (BUNDLE_FILE, FACTS_FILE, WEIGHTS_FILE)
PICKLES = (".pkl", ".pickle", ".bin", ".ckpt", ".joblib")
TIMEOUT_S = 30.0
LEFT_AT_HOME = "the embeddings of the tiles that trained this head were not passed on with it"


@dataclass(frozen=True)
class UploadFile:
    """One file that would go to the hub.

    Attributes:
        name: Its path in the repository.
        path: Where it lies here; None for what is made for the upload alone.
        n_bytes: Its size.
        content: What is made for the upload: the card, and a bundle without the training's tiles.
    """

    name: str
    path: Path | None
    n_bytes: int
    content: bytes = b""


@dataclass(frozen=True)
class PushPlan:
    """What would be uploaded.

    Attributes:
        folder: What is uploaded from.
        repo_id: Where to, ``OWNER/NAME``.
        files: Every file, by name.
        licence: Licence of the backbone.
        is_public: Whether everybody may see it.
        notes: What to look at before, one sentence each.
    """

    folder: Path
    repo_id: str
    files: tuple[UploadFile, ...]
    licence: str
    is_public: bool
    notes: tuple[str, ...]

    def __str__(self) -> str:
        """Return what a terminal shows."""
        seen_by = "everybody" if self.is_public else "you and those you invite (private)"
        total = sum(file.n_bytes for file in self.files)
        width = max(len(file.name) for file in self.files)
        lines = [f"to {self.repo_id}, seen by {seen_by}; licence of the backbone: {self.licence}"]
        lines += [f"  {file.name:{width}}  {readable_bytes(file.n_bytes):>10}" for file in self.files]
        lines.append(f"{len(self.files)} files, {readable_bytes(total)}")
        return "\n".join([*lines, *self.notes])


def plan_push(folder: Path, repo_id: str, card: CardFacts | None = None, *, is_public: bool = False) -> PushPlan:
    """Say what an upload would hold, without a connection.

    Args:
        folder: Written by ``histotune export``, or a head's own folder.
        repo_id: ``OWNER/NAME`` on the hub.
        card: What is known about a head whose own folder is pushed; None for exported folders, which have their card.
        is_public: Whether everybody may see it.

    Returns:
        The files with their sizes, and what to look at before.

    Raises:
        UserError: No such folder, files that don't belong to it, a licence that does not let one pass it on, or an
            impossible name.
    """
    if REPO_ID.fullmatch(repo_id) is None or ".." in repo_id or "--" in repo_id:
        raise UserError(
            "this is no name of a repository on the hub", value=repo_id, allowed="OWNER/NAME", fix="yourname/my-head"
        )
    if card is not None:
        return _head_plan(folder, repo_id, card, is_public)
    written = _export_facts(folder)
    if not written.get("may_be_shared"):
        raise UserError(
            "this export is for own use only; NOTICE.txt in it says why, and a hub is no place for it",
            value=folder,
            allowed="the head alone, where its licence lets you",
            fix="histotune export HEAD --format folder --out DIR writes what may be passed on",
        )
    files = [UploadFile(path.relative_to(folder).as_posix(), path, path.stat().st_size) for path in _files(folder)]
    return PushPlan(folder, repo_id, tuple(files), str(written.get("licence")), is_public, ())


def push_folder(plan: PushPlan, endpoint: str | None = None, token: str | None = None) -> str:
    """Upload what a plan lists, in one commit; the repository is made where it is missing.

    Args:
        plan: From :func:`plan_push`.
        endpoint: Address of the hub; None takes ``HF_ENDPOINT``, or the public one.
        token: Access token; None takes the one of ``hf auth login`` or ``HF_TOKEN``. It is in no message.

    Returns:
        Address of the commit.

    Raises:
        UserError: No token, no answer, or the hub refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError

    found = token or get_token()
    if not found:
        raise UserError("no access token for the hub here", fix="hf auth login, with a token that may write")
    api = HfApi(endpoint=endpoint, token=found)
    operations = [
        CommitOperationAdd(file.name, file.content if file.path is None else str(file.path)) for file in plan.files
    ]
    try:
        api.create_repo(plan.repo_id, private=not plan.is_public, exist_ok=True)
        done: Any = api.create_commit(plan.repo_id, operations, commit_message="A head from histotune")
    except HfHubHTTPError as error:
        raise _refused(plan.repo_id, error, found) from None
    except Exception as error:
        # The hub's client raises errors of its transport library, which changes; all others are ours to see.
        if not isinstance(error, OSError) and not re.search("connect|timeout|protocol", type(error).__name__.lower()):
            raise
        raise UserError(
            f"the hub gives no answer ({type(error).__name__})",
            value=api.endpoint,
            fix="check the connection or HTTPS_PROXY, then run the command again",
        ) from None
    return str(done.commit_url)


def _refused(repo_id: str, error: Any, token: str) -> UserError:  # noqa: ANN401  (an error of huggingface_hub)
    """Return the hub's answer in words, without any token."""
    status = getattr(getattr(error, "response", None), "status_code", "?")
    words = redact(str(getattr(error, "server_message", "") or "")).replace(token, "***").split("\n")[0][:200]
    fix = (
        "hf auth whoami shows the account; the token needs the right to write" if status in (401, 403) else "try again"
    )
    return UserError(f"the hub refused with status {status}{f': {words}' if words else ''}", value=repo_id, fix=fix)


def _export_facts(folder: Path) -> dict[str, Any]:
    try:
        facts = read_json(folder / EXPORT_FILE)
    except (OSError, ValueError) as error:
        raise UserError(
            "this folder was not written by histotune export, and is no head's own folder",
            value=folder,
            fix="histotune export HEAD --format transformers --out DIR, then push DIR",
        ) from error
    return facts if isinstance(facts, dict) else {}


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder; what is no plain file, hidden, or can run code when it is read is refused."""
    for path in sorted(folder.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            continue
        name = path.relative_to(folder)
        is_hidden = any(part.startswith(".") for part in name.parts)
        if path.is_symlink() or not is_regular_file(path) or is_hidden or path.suffix.lower() in PICKLES:
            raise UserError(
                "this file does not belong into an export, and nothing is uploaded with it there",
                value=path,
                allowed="plain files that are no pickles, no links and not hidden",
                fix="remove it, or write the export again",
            )
        yield path


def _head_plan(folder: Path, repo_id: str, card: CardFacts, is_public: bool) -> PushPlan:
    """Return the plan for a head's own folder: its files, its adapter, and a card that is made for it."""
    sharing = card.sharing
    refusal = sharing.weights_refusal if card.spec.adapter else sharing.head_refusal
    if refusal:
        raise UserError(
            f"this head may not be passed on: {refusal}",
            value=folder,
            fix="ask whoever licenses the backbone, or keep the head",
        )
    paths = [folder / name for name in HEAD_FILES if name != BUNDLE_FILE]
    paths += list(_files(folder / ADAPTER_BESIDE)) if (folder / ADAPTER_BESIDE).is_dir() else []
    files = [UploadFile(path.relative_to(folder).as_posix(), path, path.stat().st_size) for path in paths]
    made = {CARD_FILE: card_text(card, {"format": "head"}).encode(), BUNDLE_FILE: _bundle_alone(card)}
    files += [UploadFile(name, None, len(content), content) for name, content in made.items()]
    head = card.bundle.head
    shown = ", ".join(head.train_groups[:3])
    note = (
        f"{FACTS_FILE} names the {len(head.train_groups):,} groups that trained the head ({shown} ...), so that nobody "
        "scores it on them unknowingly: look whether these names may leave your house"
    )
    notes = (note,) if head.train_groups else ()
    by_name = tuple(sorted(files, key=lambda file: file.name))
    return PushPlan(folder, repo_id, by_name, sharing.licence.name, is_public, notes)


def _bundle_alone(card: CardFacts) -> bytes:
    """Return ``bundle.json`` of a head that leaves the embeddings of its training tiles, patients' tiles, at home."""
    kept = replace(card.bundle, reference=TrainingReference(scale=card.bundle.reference.scale, reason=LEFT_AT_HOME))
    with TemporaryDirectory() as place:
        save_bundle(kept, Path(place))
        return (Path(place) / BUNDLE_FILE).read_bytes()
