"""`render_report`: rankings and evidence in, one HTML page out. The same inputs give the same bytes."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

from jinja2 import BaseLoader, Environment, StrictUndefined, TemplateNotFound
from markupsafe import Markup

from backbench.errors import shown
from backbench.report.markdown import Table
from backbench.report.page import marks
from backbench.report.page.inputs import Evidence
from backbench.report.page.view import make_view
from backbench.report.ranked import RankedRuns
from backbench.wording import count

_PACKAGE = "backbench.report.page"
MAX_PAGE_BYTES = 8_000_000
"""A larger page still opens, but is a problem for mail and phones."""


@dataclass(frozen=True)
class Foreword:
    """The part of a study before its runs: source, questions with answers, published tables.

    Args:
        answers: question -> answers from the runs, item by item.
        more: unpublished tables, such as that of its data.
        here: the runs, their images, and differences from the study's file, in sentences.
        choices: which models went on to later rankings, in sentences.
        undone: reason -> missing parts of the study.
    """

    about: str
    source: str
    answers: tuple[tuple[str, tuple[str, ...]], ...] = ()
    tables: tuple[Table, ...] = ()
    more: tuple[Table, ...] = ()
    here: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    undone: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def num_undone(self) -> int:
        """Number of missing parts of the study."""
        return sum(map(len, self.undone.values()))


def render_report(
    rankings: Sequence[RankedRuns],
    evidence: Sequence[Evidence] | None = None,
    *,
    title: str = "backbench report",
    foreword: Foreword | None = None,
) -> str:
    """The page as HTML: without requests to any host, complete without scripts.

    Args:
        rankings: one for each manifest; they are shown one after the other and never ranked together.
        evidence: for each ranking; None: only the records.
        title: of the page.
        foreword: of a study.

    Raises:
        ValueError: `rankings` is empty, or `evidence` has another length.

    Cost: O(rows^2 images) for the paired tests; some 0.5 s for 20 runs of 10,000 images.
    """
    evidence = evidence if evidence is not None else [Evidence() for _ in rankings]
    if not rankings or len(evidence) != len(rankings):
        raise ValueError(f"{len(rankings)} rankings with {len(evidence)} pieces of evidence")
    views = [
        make_view(ranked, found, key=f"c{number}" if len(rankings) > 1 else "c")
        for number, (ranked, found) in enumerate(zip(rankings, evidence, strict=True), start=1)
    ]
    style, script = _read("style.css"), _read("script.js")
    policy = (
        f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    return (
        make_environment()
        .get_template("page.html")
        .render(
            title=marks.name(title, 160),
            views=views,
            names=_name_apart(rankings),
            headings=_name_apart(rankings, with_sizes=False),
            has_splits=len({found.data.name for found in rankings}) < len(rankings),
            foreword=foreword,
            policy=policy,
            # our own files, without outside content; not escaped
            style=Markup(style),
            script=Markup(script),
        )
    )


def _name_apart(rankings: Sequence[RankedRuns], *, with_sizes: bool = True) -> list[str]:
    """The data set of each ranking; for repeated names, with a distinguishing part.

    The manifest's digest is the last resort. `with_sizes=False` leaves out the number of training
    images, for places that show it anyway.
    """
    data = [found.entries[0].record.config.data for found in rankings]
    names = [found.data.name for found in rankings]
    sizes = [f"{found.data.num_train:,} training images" for found in rankings]
    seeds = [f"split by seed {config.split_seed}" for config in data]
    groups = [
        f"groups from {shown(config.group_column)}" if config.group_column else "no groups" for config in data
    ]
    digests = [f"manifest {found.data.manifest_digest[:8]}" for found in rankings]
    titles = list(names)
    for words in (sizes, seeds, groups, digests):
        variants: dict[str, set[str]] = {}
        for name, word in zip(names, words, strict=True):
            variants.setdefault(name, set()).add(word)
        is_split = [len(variants[name]) > 1 for name in names]
        names = [
            f"{name}, {word}" if split else name for name, word, split in zip(names, words, is_split, strict=True)
        ]
        if with_sizes or words is not sizes:
            titles = [
                f"{text}, {word}" if split else text
                for text, word, split in zip(titles, words, is_split, strict=True)
            ]
    return titles


@cache
def make_environment() -> Environment:
    """The template engine of the page, with a cache: all values are escaped, unknown names are errors."""
    environment = Environment(
        loader=_PackageFiles(), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["name"] = marks.name
    environment.filters["breakable"] = marks.breakable
    environment.filters["plural"] = count
    return environment


class _PackageFiles(BaseLoader):
    """Templates from this package, also from a zip file."""

    def get_source(self, environment: Environment, template: str) -> tuple[str, str, None]:
        if template not in {entry.name for entry in files(_PACKAGE).iterdir() if entry.name.endswith(".html")}:
            raise TemplateNotFound(template)
        return _read(template), template, None


def _read(file: str) -> str:
    return files(_PACKAGE).joinpath(file).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
