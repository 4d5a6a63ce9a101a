"""The REST part against its own description, by schemathesis: no server error, no answer that is not described."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, Phase, settings

schemathesis = pytest.importorskip("schemathesis")

from wavlm_live.streamer.server.openapi import DESCRIPTION  # noqa: E402

schema = schemathesis.openapi.from_dict(DESCRIPTION)
EXAMPLES = int(os.environ.get("WAVLM_LIVE_SCHEMA_EXAMPLES", "8"))


@schema.parametrize()
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_rest(case, tiny_server):
    response = case.call(base_url=tiny_server.http, timeout=60)
    assert response.status_code < 500 or response.status_code == 503, response.text
    if response.status_code in (200, 400):
        case.validate_response(
            response, checks=[schemathesis.checks.not_a_server_error, schemathesis.checks.response_schema_conformance]
        )
