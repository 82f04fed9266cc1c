"""Client of the raytrain_xai service: predictions with concept traces and heatmaps, typed, with and without asyncio."""

from raytrain_xai_client.answers import (
    Answers,
    BatchLine,
    Change,
    ClassScore,
    Concept,
    ExplainedClass,
    Explanation,
    Intervention,
    Prediction,
    Problem,
    Trace,
    TracedClass,
)
from raytrain_xai_client.async_client import AsyncClient
from raytrain_xai_client.client import Client
from raytrain_xai_client.descriptions import ConceptDetail, ConceptPage, ConceptSummary, Model, ModelSummary
from raytrain_xai_client.errors import AnswerError, ClientError, ConnectionFailedError, ServiceError
from raytrain_xai_client.images import ImageAddress, ImageInput
from raytrain_xai_client.insight import FoundImage, FoundImages, Segment, SegmentedImage
from raytrain_xai_client.maps import EvidenceMap, RgbaPicture
from raytrain_xai_client.retry import Retry

__all__ = [
    "AnswerError",
    "Answers",
    "AsyncClient",
    "BatchLine",
    "Change",
    "ClassScore",
    "Client",
    "ClientError",
    "Concept",
    "ConceptDetail",
    "ConceptPage",
    "ConceptSummary",
    "ConnectionFailedError",
    "EvidenceMap",
    "ExplainedClass",
    "Explanation",
    "FoundImage",
    "FoundImages",
    "ImageAddress",
    "ImageInput",
    "Intervention",
    "Model",
    "ModelSummary",
    "Prediction",
    "Problem",
    "Retry",
    "RgbaPicture",
    "Segment",
    "SegmentedImage",
    "ServiceError",
    "Trace",
    "TracedClass",
]
