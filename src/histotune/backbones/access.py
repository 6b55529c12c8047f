"""Whether a backbone can be used here and now: cache, hub, licence, token, disk. No token is ever shown."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from histotune.backbones.catalog import HUB_ID, find_entry, unknown_backbone
from histotune.backbones.entries import FIGURES, CatalogEntry, hub_name
from histotune.backbones.weights import INDEX, ONE_FILE, TORCH_FILE, cached_file
from histotune.tools.provenance import redact
from histotune.tools.stand_ins import WEB_PAGE
from histotune.tools.table import Row, Table, columns_of, table_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from histotune.backbones.spec import BackboneSpec


State = Literal["ok", "problem", "unknown"]
TIMEOUT_S = 10.0
SLACK = 1.05  # a download needs its own size and a little for the file system


@dataclass(frozen=True)
class AccessFinding:
    """One answer.

    Attributes:
        what: What was asked: ``cache``, ``hub``, ``licence``, ``token``, ``disk``, ``code``.
        state: Whether it stands in the way.
        words: The answer.
        fix: What to do; empty where nothing is to be done.
    """

    what: str
    state: State
    words: str
    fix: str = ""


@dataclass(frozen=True)
class AccessReport:
    """What stands between a user and a backbone.

    Attributes:
        name: What the user typed.
        findings: Answers in the order of asking.
    """

    name: str
    findings: tuple[AccessFinding, ...]

    @property
    def usable(self) -> bool:
        """Whether it can be used now, from the cache or by download."""
        in_cache = any(one.what == "cache" and one.state == "ok" for one in self.findings)
        return all(one.state == "ok" for one in self.findings if one.what != "cache") or (
            in_cache and not any(one.what == "code" for one in self.findings)
        )


def check_access(names: Sequence[str], api: Any = None) -> tuple[AccessReport, ...]:  # noqa: ANN401  (HfApi or a fake)
    """Ask whether backbones can be used here: catalog names or hub ids.

    Args:
        names: What the user typed.
        api: A ``huggingface_hub.HfApi``; None makes one.

    Returns:
        A report per name.

    Raises:
        UserError: A name that is neither in the catalog nor a hub id.
    """
    return tuple(AccessReport(name, tuple(_findings(hub_name(name).name, api))) for name in names)


def _findings(name: str, api: Any) -> Iterator[AccessFinding]:  # noqa: ANN401
    entry = find_entry(name)
    if entry is None and (not HUB_ID.fullmatch(name) or name.startswith("timm/")):
        raise unknown_backbone(name)
    if entry is not None and entry.own_code is not None:
        yield AccessFinding("code", "problem", entry.own_code.reason, entry.own_code.fix)
        return
    repository = name if entry is None else entry.spec.repository
    if not repository:
        yield AccessFinding("hub", "ok", "needs no download")
        return
    yield from _of_repository(repository, entry, api)
    if entry is not None and entry.spec.adapter:
        base = "/".join(entry.spec.adapter.split("/")[:2])
        yield from (
            AccessFinding(f"adapter {one.what}", one.state, one.words, one.fix) for one in _hub(base, "", api)[0]
        )


def _of_repository(repository: str, entry: CatalogEntry | None, api: Any) -> Iterator[AccessFinding]:  # noqa: ANN401
    spec = None if entry is None else entry.spec
    revision = "" if spec is None else spec.revision
    cached = _cached(repository, revision, spec)
    if cached is None:
        yield AccessFinding("cache", "unknown", f"not downloaded yet (cache: {_cache_folder()})")
    else:
        yield AccessFinding("cache", "ok", f"downloaded, commit {cached[:12]}")
    findings, info = _hub(repository, revision, api)
    yield from findings
    if info is None:
        return
    if getattr(info, "gated", False):
        yield from _licence(repository, info, api)
    if cached is None:
        yield _disk(info, spec)


def _cached(repository: str, revision: str, spec: BackboneSpec | None) -> str | None:
    names = (spec.weights_file,) if spec is not None and spec.weights_file else (ONE_FILE, INDEX, TORCH_FILE)
    found = next((path for name in names if (path := cached_file(repository, name, revision))), None)
    return None if found is None else found.parent.name


def _cache_folder() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _hub(repository: str, revision: str, api: Any) -> tuple[list[AccessFinding], Any]:  # noqa: ANN401
    """Ask the hub for a repository; return findings and its facts, or None."""
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:
        words = "not asked: offline mode is on (HF_HUB_OFFLINE)"
        return [AccessFinding("hub", "unknown", words, "unset HF_HUB_OFFLINE to ask")], None
    try:
        info = (api or HfApi()).model_info(
            repository, revision=revision or None, timeout=TIMEOUT_S, files_metadata=True
        )
    except Exception as error:  # the hub's client raises errors of its transport library, which changes
        return [_hub_failure(repository, revision, error)], None
    gated = getattr(info, "gated", False)
    words = f"answers; access is {'granted by its owners' if gated == 'manual' else 'gated' if gated else 'open'}"
    return [AccessFinding("hub", "ok", words)], info


def _hub_failure(repository: str, revision: str, error: Exception) -> AccessFinding:
    """Say what a failed question to the hub means."""
    page, problem = f"https://huggingface.co/{repository}", _problem(error)
    answers = {
        "gated": ("access to it was not granted", f"accept its licence at {page}, then run `hf auth login`"),
        "revision": (f"has no revision {revision[:12]}", f"see {page}/commits/main"),
        "absent": ("no such repository, or a private one", f"open {page}"),
        "token": (
            "does not know the token, or the repository is private or gone",
            f"run `hf auth login`, then open {page}",
        ),
        "requests": ("too many requests from here", "wait some minutes; a token raises the limit"),
        "status": (f"answers with an error ({_status(error)})", "try again later"),
        "slow": (f"did not answer within {TIMEOUT_S:.0f} s", "try again, or check the proxy"),
        "network": ("can't be reached from here", "check the connection or HTTPS_PROXY"),
        "page": (f"its answer is no data: perhaps it is {WEB_PAGE.words}", WEB_PAGE.fix),
        "other": (f"could not be asked: {redact(f'{error}').splitlines()[0][:120]}", "report this"),
    }
    state: State = "problem" if problem in ("gated", "revision", "absent", "token") else "unknown"
    return AccessFinding("hub", state, *answers[problem])


def _problem(error: Exception) -> str:
    """Return which of the known failures an error of the hub's client is."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    status, kind = _status(error), type(error).__name__.lower()
    known = (
        ("gated", isinstance(error, GatedRepoError) or status == 403),
        ("revision", isinstance(error, RevisionNotFoundError)),
        ("absent", isinstance(error, RepositoryNotFoundError) and status != 401),
        ("token", status == 401),
        ("requests", status == 429),
        ("status", status is not None),
        ("slow", isinstance(error, TimeoutError) or "timeout" in kind),
        ("page", isinstance(error, json.JSONDecodeError)),
        ("network", isinstance(error, OSError) or "connect" in kind),
    )
    return next((name for name, holds in known if holds), "other")


def _status(error: Exception) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _licence(repository: str, info: Any, api: Any) -> Iterator[AccessFinding]:  # noqa: ANN401
    """Tell whether the user's token opens a gated repository."""
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import GatedRepoError

    page = f"https://huggingface.co/{repository}"
    accept = f"accept its licence at {page}"
    if not get_token():
        yield AccessFinding("token", "problem", "none", f"{accept}, then run `hf auth login`")
        return
    client = api or HfApi()
    try:
        client.whoami()
    except Exception as error:  # as above: errors of whichever transport library the client uses
        if _status(error) == 401:
            yield AccessFinding("token", "problem", "not valid any more", "run `hf auth login` with a new one")
        else:
            yield AccessFinding("token", "unknown", "present, could not be tried", "try again later")
        return
    yield AccessFinding("token", "ok", "present and valid")
    try:
        client.auth_check(repository)
    except GatedRepoError:
        pending = "; its owners grant access by hand" if info.gated == "manual" else ""
        yield AccessFinding("licence", "problem", f"not accepted, or access not granted yet{pending}", accept)
    except Exception as error:  # as above; an answer that can't be had is no reason to stop the other checks
        yield AccessFinding(
            "licence", "unknown", f"could not be asked ({_status(error) or type(error).__name__})", "try again later"
        )
    else:
        yield AccessFinding("licence", "ok", "accepted")


def _disk(info: Any, spec: BackboneSpec | None) -> AccessFinding:  # noqa: ANN401
    """Compare the size of what would be downloaded with the room in the hub cache."""
    sizes = {sibling.rfilename: sibling.size or 0 for sibling in (getattr(info, "siblings", None) or ())}
    needed = _needed_bytes(sizes, "" if spec is None else spec.weights_file)
    folder = _cache_folder()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if not needed:
        return AccessFinding("disk", "unknown", f"{free / 2**30:.1f} GiB free; the size of the download is not known")
    words = f"{needed / 2**30:.1f} GiB to download, {free / 2**30:.1f} GiB free"
    if needed * SLACK > free:
        return AccessFinding("disk", "problem", words, "free some room, or set HF_HOME to a larger disk")
    return AccessFinding("disk", "ok", words)


def _needed_bytes(sizes: dict[str, int], weights_file: str) -> int:
    if weights_file:
        return sizes.get(weights_file, 0)
    if ONE_FILE in sizes:
        return sizes[ONE_FILE]
    if INDEX in sizes:
        return sum(size for name, size in sizes.items() if name.endswith(".safetensors") and "/" not in name)
    return sizes.get(TORCH_FILE, 0)


# ---- The catalog for people ----


ANSWERS = {True: "yes", False: "no", None: "see licence"}
SEEN = {"yes": "●", "no": "-", "unknown": "?"}
STATES = {"ok": "ok", "problem": "NO", "unknown": "?"}
LEGEND = (
    "Overlap: ● the pretraining data, as its authors describe it, holds TCGA / Camelyon16 (PCam) / BreakHis images, "
    "- it does not, ? not known.",
    "shape-verified: built at full size and compared with the cited figures. listed: needs code of its own.",
    "All facts and their sources: histotune backbones show NAME. Can I use it here: histotune backbones check NAME.",
)


def catalog_table(entries: Iterable[CatalogEntry]) -> Table:
    """Return a table with a row per backbone."""
    rows = [
        {
            "name": entry.name,
            "params": params_words(entry),
            "dim": "" if entry.dim is None else str(entry.dim),
            "mpp": _mpp(entry.spec.training_mpp),
            "gated": "gated" if entry.spec.gated else "",
            "licence": entry.licence.name.removesuffix(" (gated)"),
            "commercial": ANSWERS[entry.licence.commercial],
            "overlap T/C/B": " ".join(SEEN[one] for one in vars(entry.overlap).values()),
            "status": entry.status,
        }
        for entry in entries
    ]
    return table_of("Backbones", rows, ("params", "dim"), LEGEND)


def params_words(entry: CatalogEntry) -> str:
    """Return the cited number of parameters as people write it; empty where none is cited."""
    if entry.params_m is None:
        return ""
    if entry.params_m >= 1000:
        return f"{entry.params_m / 1000:g} B"
    return f"{entry.params_m:g} M"


def entry_text(entry: CatalogEntry) -> str:
    """Return everything known about a backbone, each figure with its sources."""
    lines = [f"{entry.name}: {entry.about}", f"  status: {entry.status}"]
    if entry.own_code is not None:
        lines += [f"  why it is only listed: {entry.own_code.reason}", f"  what to do: {entry.own_code.fix}"]
    lines += [f"  {label}: {words}{_marks(entry, figure)}" for label, words, figure in _facts(entry) if words]
    licence = entry.licence
    lines += [
        f"  licence: {licence.name} ({licence.source})",
        f"    commercial use: {ANSWERS[licence.commercial]}; pass on the weights: {ANSWERS[licence.share_weights]}; "
        f"pass on fine-tuned ones: {ANSWERS[licence.share_derivatives]}; "
        f"embeddings and heads bound too: {ANSWERS[licence.outputs_restricted]}",
        f"  cite: {entry.spec.citation}",
        *(f"  note: {note}" for note in entry.notes),
        "  sources:",
        *(f"    [{number}] {source.where}" for number, source in enumerate(entry.sources, start=1)),
    ]
    return "\n".join(lines)


def access_table(reports: Sequence[AccessReport]) -> Table:
    """Return a table of what checks found."""
    rows = []
    for report in reports:
        for number, one in enumerate(report.findings):
            name = report.name if number == 0 else ""
            rows.append(Row((name, one.what, STATES[one.state], one.words, one.fix)))
        verdict = "can be used" if report.usable else "can't be used yet"
        rows.append(Row(("", "", "", verdict, ""), "strong", ends_section=True))
    return Table("Access", columns_of(("backbone", "", "", "answer", "what to do")), tuple(rows))


def _facts(entry: CatalogEntry) -> tuple[tuple[str, str, str], ...]:
    """Return (label, words, figure) per fact, in the order of the catalog's columns."""
    spec, said = entry.spec, entry.overlap
    overlap = f"TCGA {said.tcga}, Camelyon16 (PCam) {said.camelyon16}, BreakHis {said.breakhis}: {spec.overlap}"
    loadable = entry.own_code is None
    unpinned = "unpinned: the commit found at first load is recorded with the run" if spec.repository else ""
    blocks = ", ".join(f"{block.name} {block.stop - block.start}" for block in entry.blocks)
    facts = (
        ("hub", spec.repository, "hub"),
        ("revision", spec.revision or (unpinned if loadable else ""), "revision"),
        ("access", "gated: accept the licence on its page" if spec.gated else "", "gated"),
        ("parameters", params_words(entry), "params"),
        ("column blocks", blocks if loadable else "", "dim"),
        ("dim", "" if loadable or entry.dim is None else str(entry.dim), "dim"),
        ("register tokens", "" if entry.registers is None else str(entry.registers), "registers"),
        ("architecture", _architecture(entry) if loadable else "", "architecture"),
        ("recommended pooling", " + ".join(spec.default_pooling) if loadable else "", "pooling"),
        ("input", f"{spec.size_px} px, {spec.interpolation}" if loadable else "", "size"),
        ("normalisation", f"mean {_triple(spec.mean)}, std {_triple(spec.std)}" if loadable else "", "normalisation"),
        ("training mpp", _mpp(spec.training_mpp), "mpp"),
        ("overlap", overlap, "overlap"),
        ("adapter", spec.adapter, "hub"),
        ("needs", entry.needs, "architecture"),
    )
    assert {figure for _, _, figure in facts} <= set(FIGURES)
    return facts


def _architecture(entry: CatalogEntry) -> str:
    spec = entry.spec
    if spec.kind == "transformers":
        return json.dumps(dict(spec.model_args))
    return f"timm {spec.source} {json.dumps(dict(spec.model_args))}" if spec.model_args else spec.source


def _marks(entry: CatalogEntry, figure: str) -> str:
    numbers = [str(number) for number, source in enumerate(entry.sources, start=1) if figure in source.figures]
    return f" [{', '.join(numbers)}]" if numbers else ""


def _mpp(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _triple(values: tuple[float, float, float]) -> str:
    return "/".join(f"{value:g}" for value in values)
