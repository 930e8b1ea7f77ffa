from __future__ import annotations

import json

import pytest

from clawplane.builder.errors import ManifestRefused
from clawplane.builder.plan import Plan, fingerprint, plan_go, plan_node, plan_python


def name(plan: Plan, *, runtime: str = "cpython-3.11.2", platform: str = "linux", configuration: str = "c") -> str:
    return fingerprint(plan, runtime=runtime, platform=platform, configuration=configuration)


def test_base_requirements_are_added_where_the_worker_pins_nothing() -> None:
    assert plan_python(b"six").text == "grpcio>=1.80.0\nprotobuf>=6.31.1\nsix\n"
    assert plan_python(b"Protobuf==5.29.0\ngrpcio").text == "grpcio\ngrpcio>=1.80.0\nprotobuf==5.29.0\n"
    assert plan_python(b"grpcio~=1.76").added == ("protobuf",)


def test_demanded_hashes_are_demanded_of_every_requirement() -> None:
    with pytest.raises(ManifestRefused, match="demands hashes, but grpcio has none"):
        plan_python(b"--require-hashes\nsix==1.0 --hash=sha256:" + b"a" * 64)


def test_a_fingerprint_ignores_spelling_and_order_but_nothing_else() -> None:
    one = plan_python(b"six==1.16.0\nrequests>=2,<3\n")
    assert name(one) == name(plan_python(b"# deps\nRequests <3, >=2\n\nSIX == 1.16.0"))
    others = [
        name(plan_python(b"six==1.17.0\nrequests>=2,<3\n")),
        name(one, runtime="cpython-3.12.1"),
        name(one, platform="other"),
        name(one, configuration="other"),
    ]
    assert len({name(one), *others}) == 5


def test_fingerprints_of_node_plans_depend_on_manifest_and_lock() -> None:
    manifest = b'{"dependencies": {"left-pad": "1.3.0"}}'
    lock = b'{"lockfileVersion": 3}'
    plans = [
        plan_node(manifest, None),
        plan_node(manifest, lock),
        plan_node(manifest + b"\n", lock),
        plan_node(None, None),
    ]
    assert len({name(plan) for plan in plans}) == 4


def test_every_compiled_worker_shares_one_fingerprint() -> None:
    assert name(plan_go(), runtime="a", configuration="b") == name(plan_go(), runtime="c", configuration="d")


def test_a_manifest_without_dependencies_needs_no_npm() -> None:
    assert plan_node(b'{"name": "worker", "dependencies": {}}', None).manifest == b""


@pytest.mark.parametrize(
    "wanted",
    ["file:../x", "link:x", "git+ssh://git@host/x", "github:a/b", "a/b", "https://host/x.tgz", "./x", "/x", "~/x",
     "git@host:a/b", "workspace:*", "npm:a/b/c"],
)  # fmt: skip
def test_node_dependencies_from_elsewhere_are_refused_by_name(wanted: str) -> None:
    manifest = json.dumps({"dependencies": {"left-pad": wanted}}).encode()
    with pytest.raises(ManifestRefused, match=r'"dependencies.left-pad" does not come from the registry'):
        plan_node(manifest, None)
    with pytest.raises(ManifestRefused, match=r"overrides\.left-pad"):
        plan_node(json.dumps({"dependencies": {"x": "1"}, "overrides": {"y": {"left-pad": wanted}}}).encode(), None)


@pytest.mark.parametrize(
    "wanted", ["^1.3.0", "1.x", "*", "", "latest", ">=1 <3", "1.0.0 - 2.0.0", "npm:other@^1", "npm:@scope/other@1.2"]
)
def test_published_versions_of_node_packages_are_accepted(wanted: str) -> None:
    assert plan_node(json.dumps({"dependencies": {"left-pad": wanted}}).encode(), None).manifest


@pytest.mark.parametrize(
    ("manifest", "lock"),
    [
        (b"", None),
        (b"[]", None),
        (b"\xff", None),
        (b"[" * 100_000, None),
        (b'{"dependencies": []}', None),
        (b'{"dependencies": {"a": 1}}', None),
        (b'{"workspaces": ["x"]}', None),
        (b" " * (2 << 20), None),
        (b"{}", b"{}"),
        (b"{}", b'{"lockfileVersion": '),
        (b"{}", b'{"lockfileVersion": ' + b"9" * 5000 + b"}"),
    ],
)
def test_manifests_npm_could_not_use_are_refused(manifest: bytes, lock: bytes | None) -> None:
    with pytest.raises(ManifestRefused):
        plan_node(manifest, lock)


def test_a_syntax_error_is_named_with_its_line() -> None:
    with pytest.raises(ManifestRefused) as caught:
        plan_node(b'{\n "dependencies": {\n oops', None)
    assert (caught.value.file, caught.value.line) == ("package.json", 3)
