"""A page to look names over: the most frequent concepts of a run with the patches that show them best."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from raytrain_xai import __version__
from raytrain_xai.concepts.top_tokens import unpack_tokens
from raytrain_xai.errors import ConfigError
from raytrain_xai.insight.described import Described
from raytrain_xai.insight.naming import Naming
from raytrain_xai.insight.naming_score import NamingScore
from raytrain_xai.report.pages import page_environment
from raytrain_xai.storage import write_bytes

PAGE = "names.html"
NUM_CONCEPTS = 60
_OTHERS = 5  # names that came close


def write_names_page(described: Described, naming: Naming, given: Mapping[int, str], score: NamingScore | None) -> str:
    """Write the page into the folder of the description.

    Args:
        described: a run.
        naming: its proposed names.
        given: names that people gave, which stand before them.
        score: how the names agree with class masks; None without masks.
    Returns:
        Address of the page.
    Raises:
        ConfigError: the names are of other concepts than those described.
    """
    strangers = [concept for concept in naming.names if concept >= described.subject.concepts]
    if strangers:
        raise ConfigError(f"concept {strangers[0]} has a name, but only {described.subject.concepts} were described")
    text = page_environment().get_template("names.html.j2").render(
        version=__version__,
        subject=described.subject,
        title=described.subject.run.partition("?")[0].rstrip("/").rpartition("/")[2],
        naming=naming,
        score=score,
        cards=_cards(described, naming, given, score),
    )  # fmt: skip
    at = described.at.child(PAGE)
    write_bytes(at, text.encode())
    return at.uri


def _cards(
    described: Described, naming: Naming, given: Mapping[int, str], score: NamingScore | None
) -> list[dict[str, Any]]:
    """What the page shows of each concept, the most frequent first."""
    height, width = described.subject.size
    _, tokens = unpack_tokens(described.sums.images)
    table = described.pictures()
    jpeg = dict(zip(table["row"].to_pylist(), table["jpeg"], strict=True))
    judged = {name.concept: name for name in score.judged} if score else {}
    frequency = described.relations.frequency
    cards: list[dict[str, Any]] = []
    for concept in frequency.argsort(descending=True, stable=True)[:NUM_CONCEPTS].tolist():
        if concept not in naming.names:
            continue
        own = [divmod(token, height * width) for token in tokens[concept].tolist() if token >= 0]
        name, cosine = naming.names[concept]
        close = {term: value for terms in naming.candidates[concept].values() for term, value in terms if term != name}
        cards.append({
            "concept": concept,
            "name": given.get(concept, name),
            "proposed": name if concept in given else "",
            "cosine": cosine,
            "share": int(frequency[concept]) / max(1, described.relations.positions),
            "others": sorted(close, key=lambda term: -close[term])[:_OTHERS],
            "judged": None if concept in given else judged.get(concept),
            "pictures": [
                {
                    "source": "data:image/jpeg;base64," + base64.b64encode(jpeg[row].as_py()).decode(),
                    "left": patch % width * 100 / width,
                    "top": patch // width * 100 / height,
                }
                for row, patch in own
            ],
        })  # fmt: skip
    return cards
