"""The named backbones: facts with their sources, licences as answers, and what stops one, read from catalog.toml."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, fields, replace
from functools import cache
from importlib import resources
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, model_validator

from histotune.backbones.spec import BackboneSpec, ColumnBlock

Seen = Literal["yes", "no", "unknown"]
Status = Literal["shape-verified", "listed", "no weights"]


@dataclass(frozen=True)
class Licence:
    """What a licence lets one do; None where its text does not say, or was not read clause by clause.

    Attributes:
        name: Its name.
        commercial: Commercial use.
        share_weights: Passing the weights on.
        share_derivatives: Passing on changed weights: fine-tuned, or with an adapter merged in.
        outputs_restricted: Whether what was computed with the model (embeddings, heads trained on them) is bound too.
        source: Where its text stands.
    """

    name: str
    commercial: bool | None
    share_weights: bool | None
    share_derivatives: bool | None
    outputs_restricted: bool | None
    source: str


@dataclass(frozen=True)
class PretrainingOverlap:
    """Whether the pretraining data, as its authors describe it, holds the images of known benchmarks.

    Attributes:
        tcga: TCGA slides, which many benchmarks are cut from.
        camelyon16: Camelyon16 slides, which PatchCamelyon is cut from.
        breakhis: BreakHis.
    """

    tcga: Seen = "unknown"
    camelyon16: Seen = "unknown"
    breakhis: Seen = "unknown"


@dataclass(frozen=True)
class Citation:
    """Where figures were read.

    Attributes:
        figures: Names of the figures, as :data:`FIGURES` lists them.
        where: A page, a file at a commit, or a paper.
    """

    figures: tuple[str, ...]
    where: str


@dataclass(frozen=True)
class OwnCode:
    """Why a backbone is listed only.

    Attributes:
        reason: What it needs that is not run here.
        fix: What to install or allow to use it elsewhere.
    """

    reason: str
    fix: str


@dataclass(frozen=True)
class CatalogEntry:
    """A backbone that has a name.

    Attributes:
        spec: What the loader needs.
        about: One line for people.
        licence: Of the weights.
        params_m: Parameters of the tile encoder in millions, as cited; None without a source.
        params_step_m: One unit of the last digit cited: 100 for "1.1 B", 0.1 for "21.7 M".
        with_classifier: Whether the source counts a classifier that the encoder goes without.
        dim: Width of one column block.
        registers: Register tokens, which are never averaged into ``patch_mean``.
        overlap: With benchmark data.
        sources: Where the figures were read.
        needs: Requirement that an older installation may lack, such as ``timm>=1.0.20``.
        notes: What a user should know: departures from the authors' transform, doubts.
        own_code: Why it can't be loaded here; None for those that can.
        verified: Whether its architecture was built at full size and found to have the cited figures; the tests
            build it and compare.
    """

    spec: BackboneSpec
    about: str
    licence: Licence
    params_m: float | None = None
    params_step_m: float = 1.0
    with_classifier: bool = False
    dim: int | None = None
    registers: int | None = None
    overlap: PretrainingOverlap = PretrainingOverlap()
    sources: tuple[Citation, ...] = ()
    needs: str = ""
    notes: tuple[str, ...] = ()
    own_code: OwnCode | None = None
    verified: bool = False

    @property
    def name(self) -> str:
        """What the user types."""
        return self.spec.name

    @property
    def status(self) -> Status:
        """How far it was checked without its weights."""
        if self.spec.kind == "colour-histogram":
            return "no weights"
        return "shape-verified" if self.verified else "listed"

    @property
    def blocks(self) -> tuple[ColumnBlock, ...]:
        """Column blocks of its embedding; empty where the width has no source."""
        if self.dim is None:
            return ()
        if "pooled" in self.spec.default_pooling:
            return (ColumnBlock("pooled", 0, self.dim),)
        return ColumnBlock("cls", 0, self.dim), ColumnBlock("patch_mean", self.dim, 2 * self.dim)


FIGURES = (
    "hub", "revision", "gated", "params", "dim", "registers", "architecture", "normalisation", "size", "pooling",
    "mpp", "overlap",
)  # fmt: skip
FILE = "catalog.toml"
Facts = dict[str, Any]


@cache
def catalog_entries() -> tuple[CatalogEntry, ...]:
    """Return every named backbone, in the order of the catalog."""
    return parse_catalog(resources.files(__package__).joinpath(FILE).read_text(encoding="utf-8"))


def parse_catalog(text: str) -> tuple[CatalogEntry, ...]:
    """Return the entries of a catalog's text; a name, field, page or licence that does not exist is a ValueError."""
    catalog = tomllib.loads(text)
    licences = {name: _licence(name, facts) for name, facts in catalog["licences"].items()}
    written: dict[str, Facts] = {}
    entries: list[CatalogEntry] = []
    for facts in catalog["backbone"]:
        like = facts.get("like")
        if like is not None and like not in written:
            raise ValueError(f"{facts['name']} is like {like}, which stands nowhere before it")
        written[facts["name"]] = {**written.get(like, {}), **{k: v for k, v in facts.items() if k != "like"}}
        entries.append(_entry(written[facts["name"]], licences, catalog["pages"]))
    return tuple(entries)


def _licence(name: str, facts: Facts) -> Licence:
    answers = ("commercial", "share_weights", "share_derivatives", "outputs_restricted")
    _refuse_unknown(name, facts, {"name", *answers})
    return Licence(facts["name"], **{answer: facts.get(answer) for answer in answers}, source="")


def _entry(facts: Facts, licences: dict[str, Licence], pages: dict[str, str]) -> CatalogEntry:
    """Return an entry from its fields: those of its spec, those of its own, and three that are named apart."""
    own = {field.name for field in fields(CatalogEntry)} - {"spec"}
    of_spec = {field.name for field in fields(BackboneSpec)} - {"licence", "overlap"}
    apart = {"licence_name": "licence", "overlap_note": "overlap"}
    _refuse_unknown(facts["name"], facts, {*own, *of_spec, *apart, "licence_source"})
    spec_facts = {name: _frozen(value) for name, value in facts.items() if name in of_spec and name != "model_args"}
    spec_facts |= {field: facts[name] for name, field in apart.items() if name in facts}
    spec = BackboneSpec(**spec_facts, model_args=tuple(facts.get("model_args", {}).items()))
    names = {**pages, "repository": spec.repository}
    rest = {name: _frozen(facts[name]) for name in own - {"licence", "overlap", "sources", "own_code"} if name in facts}
    return CatalogEntry(
        spec=spec,
        licence=replace(licences[facts["licence"]], source=facts["licence_source"].format(**names)),
        overlap=PretrainingOverlap(**facts.get("overlap", {})),
        sources=tuple(_cite(one["where"].format(**names), one["figures"]) for one in facts.get("sources", ())),
        own_code=OwnCode(**facts["own_code"]) if "own_code" in facts else None,
        **rest,
    )


def _frozen(value: Any) -> Any:  # noqa: ANN401  (whatever TOML holds)
    return tuple(value) if isinstance(value, list) else value


def _cite(where: str, figures: list[str]) -> Citation:
    _refuse_unknown(where, dict.fromkeys(figures), set(FIGURES))
    return Citation(tuple(figures), where)


def _refuse_unknown(place: str, given: Facts, known: set[str]) -> None:
    odd = sorted(set(given) - known)
    if odd:
        raise ValueError(f"{place} holds {', '.join(odd)}, which is none of {', '.join(sorted(known))}")


# ---- Names of the hub ----


HUB_SCHEMES = ("hf-hub:", "hf_hub:", "hf://")  # timm's and huggingface_hub's own
HUB_ADDRESS = re.compile(r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/(?:models/)?(?P<rest>.+)")
PAGE = re.compile(r"(?P<name>[^/]+/[^/]+)(?:/(?:tree|blob|resolve|commits?|discussions)(?:/(?P<revision>[^/]+).*)?)?")


@dataclass(frozen=True)
class HubName:
    """A repository as it was named, and the revision that came with its name; empty for none."""

    name: str
    revision: str = ""


def hub_name(typed: str) -> HubName:
    """Return a hub repository by its bare name, however it was written; other names stay as they are.

    Example:
        >>> hub_name("https://huggingface.co/MahmoodLab/UNI/tree/main")
        HubName(name='MahmoodLab/UNI', revision='')
        >>> hub_name("hf-hub:MahmoodLab/UNI@v1")
        HubName(name='MahmoodLab/UNI', revision='v1')
    """
    first = "random/" if typed.startswith("random/") else ""
    text = typed.removeprefix("random/").strip()
    text = text.removeprefix("timm/") if text.startswith(tuple(f"timm/{scheme}" for scheme in HUB_SCHEMES)) else text
    scheme = next((scheme for scheme in HUB_SCHEMES if text.startswith(scheme)), None)
    address = HUB_ADDRESS.fullmatch(text)
    if scheme is not None:
        name, _, revision = text.removeprefix(scheme).removeprefix("//").strip("/").partition("@")
        return HubName(first + name, revision)
    if address is None:
        return HubName(typed)
    rest = re.split(r"[?#]", address["rest"])[0].strip("/")
    page = PAGE.fullmatch(rest)
    if page is None:
        return HubName(first + rest)
    revision = page["revision"] or ""
    return HubName(first + page["name"], "" if revision in ("main", "resolve") else revision)


# ---- Settings ----
class BackboneConfig(BaseModel):
    """Which backbone embeds the tiles.

    Attributes:
        name: Catalog name (``lite0``, ``midnight``), ``timm/ARCHITECTURE``, a hub id, or a local folder.
        revision: Hub revision; empty takes the catalog's pinned one.
        weights: A checkpoint file or folder instead of the hub's weights, for ``timm/ARCHITECTURE`` and catalog names.
        adapter: PEFT's or changed tensors, merged into the weights: a local folder, or ``ORGANISATION/NAME[/FOLDER]``
            on the hub; ``none`` leaves out the catalog's.
        adapter_revision: Hub revision of the adapter; empty takes the catalog's pinned one, or ``main``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = "lite0"
    revision: str = ""
    weights: str = ""
    adapter: str = ""
    adapter_revision: str = ""

    @model_validator(mode="before")
    @classmethod
    def _by_bare_names(cls, given: Any) -> Any:  # noqa: ANN401  (whatever was typed)
        """Take the hub's addresses, and the prefixes that libraries put before its names, as the names themselves."""
        if not isinstance(given, dict):
            return given
        found = dict(given)
        for field, its_revision in (("name", "revision"), ("adapter", "adapter_revision")):
            if isinstance(found.get(field), str):
                named = hub_name(found[field])
                found[field] = named.name
                if named.revision and not found.get(its_revision):
                    found[its_revision] = named.revision
        return found
