"""Images sent over HTTP, and the same explained in this process."""

from __future__ import annotations

import base64
import io
from typing import Any

from PIL import Image
from starlette.testclient import TestClient

from raytrain_xai.explain import Explainer
from raytrain_xai.types import Explanation
from serve.settings import ModelSettings

PNG = {"content-type": "image/png"}
Models = dict[str, ModelSettings]


def explained(served_models: Models, png: bytes, **asked: Any) -> Explanation:
    """By version ``b`` of the plain model, in this process."""
    (answer,) = Explainer.load(served_models["plain"].versions["b"].run)([Image.open(io.BytesIO(png))], **asked)
    return answer


def ask(client: TestClient, address: str, png: bytes) -> dict[str, Any]:
    answer = client.post(f"/v1/models/{address}", content=png, headers=PNG)
    assert answer.status_code == 200, answer.text
    return answer.json()


def json_body(*pictures: bytes, **parameters: Any) -> dict[str, Any]:
    return {"instances": [{"b64": base64.b64encode(png).decode()} for png in pictures], "parameters": parameters}
