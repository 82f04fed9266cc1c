"""The client for programs with asyncio; see :mod:`raytrain_xai_client.client` for the arguments of its methods."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import httpx

from raytrain_xai_client import calls
from raytrain_xai_client.answers import (
    Answers,
    BatchLine,
    Change,
    Explanation,
    Intervention,
    Prediction,
    Trace,
)
from raytrain_xai_client.calls import Call, Operation
from raytrain_xai_client.client import BATCH_BYTES, BATCH_IMAGES
from raytrain_xai_client.descriptions import ConceptDetail, ConceptPage, Model, ModelSummary
from raytrain_xai_client.errors import ConnectionFailedError, ServiceError
from raytrain_xai_client.exchange import Attempts, Patience, Pause, Send, course_of
from raytrain_xai_client.images import ImageAddress, ImageInput, grouped
from raytrain_xai_client.insight import FoundImages, SegmentedImage
from raytrain_xai_client.maps import MapFormat
from raytrain_xai_client.retry import Retry, lost

_Result = TypeVar("_Result")


class AsyncClient:
    """As :class:`~raytrain_xai_client.client.Client`, to be awaited; for one event loop.

    Args:
        address: of the service, as ``http://127.0.0.1:8000``.
        key: API key, where the service asks for one. It goes to this address only; redirects are not followed.
        deadline_s: how long a call may take with all its attempts. The service is told, and leaves out maps rather than
            be late. None: no hurry. Batches have none.
        timeout_s: for an answer, or the next part of a batch, where there is no deadline.
        retry: what is sent again.
        transport: in place of the network.
    """

    def __init__(
        self, address: str, *, key: str | None = None, deadline_s: float | None = None, timeout_s: float = 60.0,
        retry: Retry | None = None, transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:  # fmt: skip
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._http = httpx.AsyncClient(base_url=address, headers=headers, transport=transport, timeout=timeout_s)
        self._patience = Patience(retry or Retry(), deadline_s, timeout_s)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Give connections back."""
        await self._http.aclose()

    # --- images -------------------------------------------------------------------------------------------------------
    async def predict(
        self, model: str, images: ImageInput | Iterable[ImageInput], *, classes: int | None = None,
        names: Sequence[str] = (),
    ) -> Answers[Prediction]:  # fmt: skip
        """Classes of images.

        Args:
            model: ``NAME`` or ``NAME@VERSION``.
            images: one or several, see :data:`~raytrain_xai_client.images.ImageInput`.
            classes: that many with the largest logits.
            names: classes that are listed besides.
        Raises:
            ServiceError: the service refused or failed.
            ConnectionFailedError: no answer came, or not in time.
            AnswerError: the answer cannot be read.
            OSError, ValueError: an image cannot be read.
        """
        options = {"classes": classes, "class": list(names) or None}
        return await self._run(calls.ask(model, "predict", images, options))

    async def explain(
        self, model: str, images: ImageInput | Iterable[ImageInput], *, classes: int | None = None,
        names: Sequence[str] = (), map: MapFormat | None = None, rgba: bool | None = None,
    ) -> Answers[Explanation]:  # fmt: skip
        """Heatmaps: as :meth:`predict`, for the ``classes`` with the largest logits and those of ``names``.

        Args:
            map: how maps are sent; ``fp16`` for all pixels as numbers.
            rgba: send B-cos explanations in the colours of the image.
        """
        options = {"classes": classes, "class": list(names) or None, "map": map, "rgba": rgba}
        return await self._run(calls.ask(model, "explain", images, options))

    async def trace(
        self, model: str, images: ImageInput | Iterable[ImageInput], *, classes: int | None = None,
        names: Sequence[str] = (), top: int | None = None, map: MapFormat | None = None,
        concept_maps: Literal["none", "positions", "pixels"] | None = None, concept_map: MapFormat | None = None,
        concepts: Sequence[str] = (), rgba: bool | None = None, origins: bool | None = None,
    ) -> Answers[Trace]:  # fmt: skip
        """Concepts and their parts in the logit: as :meth:`explain`.

        Args:
            top: concepts shown one by one.
            concept_maps: where a shown concept is.
            concept_map: how these maps are sent.
            concepts: ``LAYER/ID`` or ``ID``, shown in any case; they alone get maps.
            origins: tell what concepts are made of.
        """
        options = {
            "classes": classes, "class": list(names) or None, "top": top, "map": map, "concept_maps": concept_maps,
            "concept_map": concept_map, "concept": list(concepts) or None, "rgba": rgba, "origins": origins,
        }  # fmt: skip
        return await self._run(calls.ask(model, "trace", images, options))

    async def intervene(
        self, model: str, images: ImageInput | Iterable[ImageInput], changes: Sequence[Change], *,
        classes: int | None = None, names: Sequence[str] = (),
    ) -> Answers[Intervention]:  # fmt: skip
        """Classes before and after concepts were switched off or scaled: as :meth:`predict`."""
        options = {"classes": classes, "class": list(names) or None, "change": calls.changes_of(changes)}
        return await self._run(calls.ask(model, "intervene", images, options))

    async def segment(
        self, model: str, images: ImageInput | Iterable[ImageInput], labels: Sequence[str] = (), **options: Any
    ) -> Answers[SegmentedImage]:  # fmt: skip
        """Which pixels show which of ``labels``, by which concepts, and the concepts of patches: as :meth:`predict`.

        Args:
            options: as the API names them: ``background``, ``background_score``, ``top``, ``patches``.
        """
        return await self._run(calls.segment(model, images, {"label": list(labels) or None, **options}))

    async def search(
        self, model: str, text: str | None = None, *, concepts: Sequence[int] = (), **options: Any
    ) -> FoundImages:  # fmt: skip
        """Indexed images that are most like ``text``, or show one of ``concepts`` most strongly: as :meth:`predict`.

        Args:
            options: as the API names them: ``split``, ``count``, ``top``.
        """
        return await self._run(
            calls.search_images(model, {"text": text, "concepts": list(concepts) or None, **options})
        )

    async def batch(
        self, model: str, images: Iterable[ImageInput], *, operation: Operation = "predict",
        progress: Callable[[int], object] | None = None, per_request: int = BATCH_IMAGES, **options: Any,
    ) -> AsyncIterator[BatchLine[Any]]:  # fmt: skip
        """Answers about any number of images, in their order, as they come; images are read when their turn comes.

        A connection that is lost is taken up again behind the last answer. An image that cannot be answered has its
        line with a ``problem``.

        Args:
            operation: whose answers the lines have.
            progress: told the number of images done after each.
            per_request: images of a request; at most 32 MB go together.
            options: of the operation, as the API names them: ``classes``, ``map``, ``top``, ``class``, ...
        Raises:
            As :meth:`predict`.
        """
        start = 0
        groups = grouped(images, per_request, BATCH_BYTES)
        while group := await asyncio.to_thread(next, groups, None):  # files are read
            async for line in self._group(model, operation, group, options):
                if progress is not None:
                    progress(start + line.index + 1)
                yield replace(line, index=start + line.index)
            start += len(group)

    async def flag(
        self, model: str, image: ImageInput, verdict: Literal["wrong_reason", "wrong_class"], class_name: str, *,
        instead: str | None = None, box: Sequence[float] | None = None, note: str | None = None,
    ) -> str:  # fmt: skip
        """Say that an answer is right for a wrong reason, or wrong.

        Args:
            class_name: of the answer.
            instead: class that the image shows.
            box: left, top, right, bottom of it in pixels.
            note: for whoever trains the next version.
        Returns:
            The id of the record.
        Raises:
            As :meth:`predict`. Sent again only where it was certainly not stored.
        """
        judgement = {
            "verdict": verdict, "class": class_name, "instead": instead, "note": note,
            "box": None if box is None else list(box),
        }  # fmt: skip
        return await self._run(calls.flag_answer(model, image, judgement))

    # --- models and concepts ------------------------------------------------------------------------------------------
    async def models(self) -> tuple[ModelSummary, ...]:
        """All models and their versions."""
        return await self._run(calls.list_models())

    async def model(self, model: str) -> Model:
        """Classes, size and concept layers of a model."""
        return await self._run(calls.show_model(model))

    async def concepts(
        self, model: str, *, query: str | None = None, class_name: str | None = None, sort: str | None = None,
        page: int | None = None, per_page: int | None = None, layer: str | None = None, parent: int | None = None,
        roots: bool | None = None,
    ) -> ConceptPage:  # fmt: skip
        """A page of the concepts that fit, in order of ``sort``; ``parent`` and ``roots``: of an encoder."""
        params = {
            "query": query, "class": class_name, "sort": sort, "page": page, "per_page": per_page, "layer": layer,
            "parent": parent, "roots": roots,
        }  # fmt: skip
        return await self._run(calls.find_concepts(model, params))

    async def concept(self, model: str, concept: int, *, layer: str | None = None) -> ConceptDetail:
        """A concept with its example images, partners and names."""
        return await self._run(calls.show_concept(model, concept, layer))

    async def rename(self, model: str, concept: int, name: str, *, layer: str | None = None) -> ConceptDetail:
        """Name a concept; an empty name takes a given one back."""
        return await self._run(calls.rename_concept(model, concept, name, layer))

    async def fetch(self, href: str) -> bytes:
        """A picture that an answer links to.

        Raises:
            ValueError: not a link of this service.
        """
        return await self._run(calls.fetch_content(href))

    async def ready(self) -> bool:
        """Whether the service can be reached and has its models loaded."""
        try:
            return await self._run(calls.read_health())
        except (ServiceError, ConnectionFailedError):
            return False

    # --- requests -----------------------------------------------------------------------------------------------------
    async def _run(self, call: Call[_Result]) -> _Result:
        course = course_of(call, self._patience)
        try:
            step = next(course)
            while True:
                if isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
                    step = next(course)
                    continue
                try:
                    response = await self._http.send(self._request(call, step))
                except httpx.TransportError as error:
                    step = course.throw(error)
                else:
                    step = course.send(response)
        except StopIteration as end:
            return end.value

    async def _group(
        self, model: str, operation: Operation, images: Sequence[bytes | ImageAddress], options: dict[str, Any]
    ) -> AsyncIterator[BatchLine[Any]]:
        attempts = Attempts(replace(self._patience, deadline_s=None), repeatable=True)
        answered = 0
        while answered < len(images):
            call = calls.ask_batch(model, operation, images[answered:], options)
            try:
                before = answered
                async for text in self._lines(call, attempts.send()):
                    line = calls.read_line(operation, text, answered - before)
                    attempts.start_again()
                    answered += 1
                    yield replace(line, index=answered - 1)
                if answered < len(images):
                    raise ConnectionFailedError("the answer ended before all images were answered")
            except httpx.TransportError as error:
                await asyncio.sleep(attempts.after(lost(error)).seconds)
            except (ServiceError, ConnectionFailedError) as error:
                await asyncio.sleep(attempts.after(error).seconds)

    async def _lines(self, call: Call[None], step: Send) -> AsyncIterator[str]:
        response = await self._http.send(self._request(call, step), stream=True)
        try:
            if not response.is_success:
                await response.aread()
                raise calls.problem_of(response)
            async for line in response.aiter_lines():
                yield line
        finally:
            await response.aclose()

    def _request(self, call: Call[Any], step: Send) -> httpx.Request:
        request = call.request(self._http, step.headers)
        request.extensions["timeout"] = httpx.Timeout(step.timeout_s).as_dict()
        return request
