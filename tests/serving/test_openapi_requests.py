"""Requests made up from the OpenAPI document: no error of the service, and answers as the document describes them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from serve.api import create_api
from serve.service import Service
from serve.settings import ModelSettings, MonitorSettings, ServeSettings

EXAMPLES = 12  # of an operation
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["as described", "otherwise"])
def test_made_up_requests_are_answered_as_documented(
    mode: GenerationMode, served_models: dict[str, ModelSettings], colour_models: dict[str, ModelSettings],
    make_service, tmp_path: Path,
) -> None:  # fmt: skip
    """Of every operation; the names of models are real, since made-up ones are all unknown."""
    chosen = ServeSettings(models=served_models | colour_models, monitor=MonitorSettings(feedback=str(tmp_path)))
    service: Service = make_service(chosen)
    document = schemathesis.openapi.from_asgi("/openapi.json", create_api(service))
    asked: Counter[str] = Counter()
    for found in document.get_all_operations():
        operation = found.ok()

        @seed(0)
        @settings(
            max_examples=EXAMPLES, deadline=None, database=None, phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: schemathesis.Case) -> None:
            if "model" in case.path_parameters:
                case.path_parameters["model"] = "colours" if case.path.endswith((":segment", ":search")) else "concepts"
            asked[case.operation.label] += 1
            case.call_and_validate(checks=CHECKS)

        try:
            ask()
        except Unsatisfiable:
            assert mode is GenerationMode.NEGATIVE, operation.label  # nothing about it can be wrong
    assert len(asked) > 12 and asked.total() > 5 * len(asked), asked
