"""The description against the server: schemathesis asks for all that it promises, and more."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from chatstream.errors import BadRequest, InvalidRequest
from chatstream.providers.adapters.scripted import Scripted
from chatstream.schemas import (
    Addressed,
    ConversationsQuery,
    HistoryQuery,
    RenameRequest,
    check_message,
    parse,
)
from chatstream.web.openapi import document
from chatstream.web.routes import CALLS
from tests.running import Running

SCHEMATHESIS = str(Path(sys.executable).parent / "schemathesis")
MOST = 50
DOCUMENT = document(CALLS, "", ["scripted"], MOST)
# That `from` must not be after `to` is what no schema can say.
CONFIG = """
[[operations]]
include-name = "GET /usage"
[operations.checks.positive_data_acceptance]
expected-statuses = ["2xx", 422]
"""
ENDLESS = ("--exclude-name", "GET /events")
"""It never ends, so that there is no whole answer to look at."""


@pytest.mark.timeout(300)
def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    """Every check of it: statuses, types, schemas, headers, and that wrong data is refused."""
    config = tmp_path / "schemathesis.toml"
    config.write_text(CONFIG)
    options = ("--seed", "10", "--max-examples", "4", "--generation-database", "none")
    with Running(tmp_path / "data", Scripted("Hello"), fsync="never") as server:
        url = f"{server.base_url}/openapi.json"
        asked = subprocess.run(
            [SCHEMATHESIS, "--config-file", str(config), "run", url, *ENDLESS, *options],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )

    assert asked.returncode == 0, asked.stdout[-8000:] + asked.stderr
    (selected, described) = re.findall(r"Selected: (\d+)/(\d+)", asked.stdout)[0]
    assert int(selected) == int(described) - 1


# ---- what the schemas let through is what the checks let through

ODD = "a\t\n\x00\x1c\x1f\x20\x7f\x80\x84\x85\x86\x9f\xa0\xad.\u1680\u200b\u2028\u3000\ufeff🙂"
texts = st.one_of(st.text(max_size=6), st.text(alphabet=ODD, max_size=4), st.just("x" * 300))


def says(schema: dict[str, Any], text: str) -> bool:
    """Say whether a schema takes a text; its `$` is the very end, which Python calls `\\Z`."""
    pattern = re.sub(r"\$(?=$|\))", r"\\Z", schema.get("pattern", ""))
    fits = schema.get("minLength", 0) <= len(text) <= schema.get("maxLength", len(text))
    return fits and re.search(pattern, text) is not None


def takes(model: type[BaseModel], **data: object) -> bool:
    """Say whether a model does."""
    try:
        parse(model, data)
    except InvalidRequest:
        return False
    return True


def field(model: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = DOCUMENT["components"]["schemas"][model]["properties"][name]
    return found


@given(texts)
def test_ids_are_described_as_they_are_checked(text: str) -> None:
    for name in ("user_id", "conversation_id"):
        assert says(field("Addressed", name), text) == takes(Addressed, **{name: text})


@given(texts)
def test_titles_are_described_as_they_are_checked(text: str) -> None:
    assert says(field("RenameRequest", "title"), text) == takes(RenameRequest, title=text)


@given(st.one_of(texts, st.text(min_size=MOST - 1, max_size=MOST + 1)))
def test_messages_are_described_as_they_are_checked(text: str) -> None:
    try:
        check_message(text, most=MOST, reject_markup=False)
        taken = True
    except BadRequest:
        taken = False

    assert says(field("TurnRequest", "message"), text) == taken


@pytest.mark.parametrize("model", ["TurnRequest", "FeedbackRequest", "RenameRequest", "AgainBody"])
def test_a_field_may_be_null_where_it_may_be_absent_and_nowhere_else(model: str) -> None:
    schema = DOCUMENT["components"]["schemas"][model]
    for name, described in schema["properties"].items():
        required = name in schema.get("required", ())
        assert ("null" in described["type"]) is not required, name


def test_no_query_can_be_null() -> None:
    for query in (Addressed, HistoryQuery, ConversationsQuery):
        assert "null" in query.model_json_schema()["properties"]["user_id"]["type"]
    for item in DOCUMENT["paths"].values():
        for operation in item.values():
            for parameter in operation["parameters"]:
                assert isinstance(parameter["schema"]["type"], str)


def test_every_operation_says_that_it_may_be_refused_and_with_a_problem() -> None:
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for path, item in DOCUMENT["paths"].items():
        for operation in item.values():
            assert {"400", "403", "500"} <= set(operation["responses"]), path
            for status, answer in operation["responses"].items():
                if int(status) >= 400 and (path, status) != ("/readyz", "503"):
                    assert answer["content"] == problem
                assert {"X-Request-ID", "Server-Timing"} <= set(answer["headers"])


def test_whole_numbers_are_whole_however_they_are_written(tmp_path: Path) -> None:
    with Running(tmp_path) as server:
        body = {"message": "q", "max_tokens": 5.0, "turn_id": "turn-0001"}
        answers = [
            server.http.post("/chat", json=body),
            server.http.post("/chat", json=body | {"max_tokens": 5}),
            server.http.post("/chat", json=body | {"max_tokens": 5.5}),
            server.http.post("/feedback", json={"rating": 4.0}),
        ]

    assert [answer.status_code for answer in answers] == [200, 200, 422, 200]
