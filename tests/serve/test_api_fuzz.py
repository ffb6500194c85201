"""The API under requests made up from its own schema: never a 5xx, and every answer as the schema says."""

from __future__ import annotations

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck
from schemathesis.checks import load_all_checks
from schemathesis.core.failures import FailureGroup
from serve_kit import Running

SECONDS_BETWEEN = 0
load_all_checks()
CHECKS = [
    getattr(schemathesis.checks, name, None) or schemathesis.checks.CHECKS.get_one(name)
    for name in (
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_schema_conformance",
    )
]
