"""Concepts to look through, their example images, and their names: ``/v1/models/{model}/concepts``.

All of it is read from the folders of the runs; a name that is given here is stored there, and other replicas and
services show it within seconds. Routes are plain functions, which FastAPI runs in threads.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Query, Request, Response

from raytrain_xai.serving.concept_view import ConceptQuery, ConceptRow, ConceptView, Relatives, Sort
from raytrain_xai.serving.served_model import ModelKey
from serve.catalogues import ServedConcepts, reading_stored
from serve.context import answered_by
from serve.model_schemas import (
    ConceptDetail,
    ConceptExample,
    ConceptPage,
    ConceptRelatives,
    ConceptSummary,
    NamedShare,
    Partner,
    Relative,
    Rename,
    Renaming,
    Synonym,
)
from serve.service import Service

_PAGE = 24
_KEPT = "private, max-age=86400"  # pictures of a catalogue do not change; the browser keeps them for a day

Layer = Annotated[str | None, Query(max_length=200, description="Concept layer; the last one when it is not given.")]


def concept_routes(service: Service) -> APIRouter:
    """Routes of the concepts of all models."""
    router = APIRouter(prefix="/v1/models/{model}/concepts", tags=["concepts"])

    @router.get("", summary="Find concepts")
    def find(  # pyright: ignore[reportUnusedFunction]
        request: Request,
        model: str,
        query: Annotated[str, Query(max_length=200, description="Part of a name or number.")] = "",
        class_name: Annotated[
            str | None,
            Query(alias="class", max_length=200, description="Only concepts that contribute to this class most."),
        ] = None,
        sort: Annotated[
            Sort | None,
            Query(
                description="contribution (to all answers, or to ``class``) and frequency: largest first; entropy: "
                "most specific first; size: smallest first; without it contribution (of an encoder, frequency), or id "
                "where there is no catalogue."
            ),
        ] = None,
        parent: Annotated[
            int | None, Query(ge=0, description="Only concepts just below this one, of an encoder.")
        ] = None,
        roots: Annotated[
            bool, Query(description="Only concepts with others below and none above them, of an encoder.")
        ] = False,
        page: Annotated[int, Query(ge=1, le=1_000_000)] = 1,
        per_page: Annotated[int, Query(ge=1, le=200)] = _PAGE,
        layer: Layer = None,
    ) -> ConceptPage:
        served = _served(service, request, model)
        view = served.view(layer)
        found = view.find(ConceptQuery(query, class_name, sort, parent, roots))
        shown = found[(page - 1) * per_page : page * per_page]
        return ConceptPage(
            model=served.key.name, version=served.key.version, layer=view.layer, total=len(found), page=page,
            pages=-(-len(found) // per_page),
            concepts=[ConceptSummary(**_summary(served.key, view, row)) for row in view.rows(shown)],
        )  # fmt: skip

    @router.get("/{concept}", summary="One concept: statistics, example images, partners, names")
    def show(  # pyright: ignore[reportUnusedFunction]
        request: Request, model: str, concept: int, layer: Layer = None
    ) -> ConceptDetail:
        served = _served(service, request, model)
        return _detail(served.key, served.view(layer), concept)

    @router.patch("/{concept}", summary="Name a concept")
    def rename(  # pyright: ignore[reportUnusedFunction]
        request: Request, model: str, concept: int, body: Rename, layer: Layer = None
    ) -> ConceptDetail:
        served = _served(service, request, model)
        view = served.view(layer)
        with reading_stored():
            view.rename(concept, body.name)
        return _detail(served.key, view, concept)

    @router.get("/{concept}/examples/{rank}.jpg", **_picture("image/jpeg", "An image that shows a concept"))
    def photograph(  # pyright: ignore[reportUnusedFunction]
        request: Request, model: str, concept: int, rank: int, layer: Layer = None
    ) -> Response:
        view = _served(service, request, model).view(layer)
        with reading_stored():
            return _kept(request, view.photograph(concept, rank), "image/jpeg")

    @router.get("/{concept}/examples/{rank}-map.png", **_picture("image/png", "Where a concept is in an image"))
    def concept_map(  # pyright: ignore[reportUnusedFunction]
        request: Request, model: str, concept: int, rank: int, layer: Layer = None
    ) -> Response:
        view = _served(service, request, model).view(layer)
        with reading_stored():
            return _kept(request, view.map(concept, rank), "image/png")

    return router


def _served(service: Service, request: Request, model: str) -> ServedConcepts:
    served = service.catalogues.of(model)
    answered_by(request.scope, served.key.name, served.key.version)
    return served


def _picture(media_type: str, summary: str) -> dict[str, Any]:
    """Arguments of a route that answers with a picture."""
    content = {"content": {media_type: {"schema": {"type": "string", "format": "binary"}}}}
    return {"summary": summary, "response_class": Response, "responses": {200: content, 304: {}}}


def _kept(request: Request, content: bytes, media_type: str) -> Response:
    headers = {"Cache-Control": _KEPT, "ETag": f'"{sha256(content).hexdigest()[:32]}"'}
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=media_type, headers=headers)


def _detail(key: ModelKey, view: ConceptView, concept: int) -> ConceptDetail:
    [row] = view.rows([concept])
    examples = [
        ConceptExample(
            image=_address(key, view, concept, f"examples/{rank}.jpg"),
            map=_address(key, view, concept, f"examples/{rank}-map.png"),
            activation=example.activation, contribution=example.contribution, labels=list(example.labels),
            answer=example.answer,
        )
        for rank, example in enumerate(view.examples(concept))
    ]  # fmt: skip
    return ConceptDetail(
        **_summary(key, view, row), model=key.name, version=key.version, examples=examples,
        partners=[Partner(id=k, name=view.name(k), overlap=overlap) for k, overlap in view.partners(concept)],
        relatives=_relatives(view, view.relatives(concept)) if view.has_relations else None,
        history=[Renaming(time=c.time, before=c.before, after=c.after) for c in view.history(concept)],
    )  # fmt: skip


def _summary(key: ModelKey, view: ConceptView, row: ConceptRow) -> dict[str, Any]:
    """Fields of :class:`ConceptSummary`."""
    unknown = dict.fromkeys(("images", "frequency", "class_entropy", "spatial_size", "mean_contribution", "always_on"))
    return {
        **unknown, **row.statistics, "layer": view.layer, "id": row.id, "name": row.name, "named_by": row.named_by,
        "labels": _shares(row.labels), "classes": _shares(row.classes),
        "thumbnail": _address(key, view, row.id, "examples/0.jpg") if row.examples else None,
        "thumbnail_map": _address(key, view, row.id, "examples/0-map.png") if row.examples else None,
    }  # fmt: skip


def _relatives(view: ConceptView, found: Relatives) -> ConceptRelatives:
    def listed(own: Mapping[int, float]) -> list[Relative]:
        return [
            Relative(id=k, name=view.name(k), share=share, children=found.num_children[k]) for k, share in own.items()
        ]

    synonyms = [Synonym(id=k, name=view.name(k)) for k in found.synonyms]
    return ConceptRelatives(parents=listed(found.parents), children=listed(found.children), synonyms=synonyms)


def _shares(values: Mapping[str, float]) -> list[NamedShare]:
    return [NamedShare(name=name, share=share) for name, share in values.items()]


def _address(key: ModelKey, view: ConceptView, concept: int, below: str) -> str:
    return f"/v1/models/{key.name}@{key.version}/concepts/{concept}/{below}?layer={quote(view.layer, safe='')}"
