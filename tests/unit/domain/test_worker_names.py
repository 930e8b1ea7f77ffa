"""Names of Workers and versions."""

from __future__ import annotations

import pytest

from clawplane.domain.errors import InvalidArgument
from clawplane.domain.worker_names import next_version, parse_path, parse_version, slugify


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("Google Maps Scraper", "google-maps-scraper"),
        ("  A & B / C  ", "a-b-c"),
        ("Caf\u00e9 \u00dcber", "cafe-uber"),
        ("\u6587", "worker"),
        ("", "worker"),
        ("x" * 100, "x" * 64),
    ],
)
def test_a_name_is_made_from_the_title(title: str, name: str) -> None:
    assert slugify(title) == name
    assert parse_path(f"owner~{name}") == ("owner", name)


@pytest.mark.parametrize("path", ["owner", "a~b~c", "~b", "a~", "../a~b", "a~b c", "01KPD6M5YQADCQKGVKPDZVYC63"])
def test_other_texts_are_no_path(path: str) -> None:
    assert parse_path(path) is None


def test_a_slash_stands_for_a_tilde() -> None:
    assert parse_path("owner/demo-worker") == ("owner", "demo-worker")


def test_versions_count_up_in_their_last_number() -> None:
    assert next_version(None) == "v1.0.0"
    assert next_version("v1.0.1") == "v1.0.2"
    assert next_version("1.2.9") == "v1.2.10"
    assert parse_version("v1.2.10") > parse_version("v1.2.9")


@pytest.mark.parametrize("version", ["latest", "v1", "1.2.3.4", "", "v1.2.x", "v1.2.9999999999"])
def test_refuses_what_is_no_version(version: str) -> None:
    with pytest.raises(InvalidArgument, match="is not like"):
        parse_version(version)
