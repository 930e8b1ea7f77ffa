"""The main flow: upload, environment, run, rows, export, through the real command line, server, runner and sandbox."""

from __future__ import annotations

import csv
import io
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

PUSH = """
from sdk import CoreSDK
given = CoreSDK.Parameter.get_input_json_dict()
CoreSDK.Result.set_table_header([{"label": "Number", "key": "number", "format": "integer"}])
for number in range(given["n"]):
    CoreSDK.Result.push_data({"number": number, "text": "grüße, \\"quoted\\""})
CoreSDK.Log.warn("pushed " + str(given["n"]))
print("said on stdout")
"""

SPLIT = {"b": "url", "properties": [{"name": "url", "type": "array", "editor": "requestList"}]}


@pytest.fixture(scope="module")
def pusher(plane: Any) -> str:
    return str(plane.push("pusher", PUSH))


def test_a_worker_is_uploaded_run_and_its_rows_come_out(plane: Any, pusher: str) -> None:
    run = plane.run(pusher, n=3)
    assert (run["status"], run["results"]) == ("succeeded", 3)
    assert [row["number"] for row in plane.rows(run["slug"])] == [0, 1, 2]


def test_an_export_as_csv_has_the_header_and_every_row(plane: Any, pusher: str) -> None:
    run = plane.run(pusher, n=2)
    text = plane.cli("runs", "export", run["slug"]).stdout
    assert text.startswith("\ufeff")
    assert list(csv.DictReader(io.StringIO(text.lstrip("\ufeff")))) == [
        {"number": "0"},
        {"number": "1"},
    ]


def test_what_a_worker_prints_and_logs_is_in_the_log(plane: Any, pusher: str) -> None:
    run = plane.run(pusher, n=1)
    log = plane.log(run["slug"])
    assert "warn  pushed 1" in log
    assert "said on stdout" in log
    assert "Preparing the execution environment." in log
    assert "Running..." in log


def test_a_default_of_the_schema_reaches_the_worker(plane: Any, pusher: str) -> None:
    assert plane.run(pusher)["results"] == 1


def test_an_input_of_the_wrong_type_is_refused_and_creates_no_run(plane: Any, pusher: str) -> None:
    before = plane.json("runs", "list")["count"]
    refused = plane.cli("runs", "start", pusher, "--input", '{"n": "three"}', check=False)
    assert refused.returncode == 1
    assert "n" in refused.stderr
    assert plane.json("runs", "list")["count"] == before


def test_a_run_is_split_and_each_part_gets_its_own_item(plane: Any) -> None:
    worker = plane.push(
        "splitter",
        "from sdk import CoreSDK\nCoreSDK.Result.push_data({'got': CoreSDK.Parameter.get_input_json_dict()['url']})\n",
        schema=SPLIT,
    )
    run = plane.run(worker, url=[{"url": "https://a"}, {"url": "https://b"}, {"url": "https://c"}])
    assert run["status"] == "succeeded"
    assert sorted(row["got"] for row in plane.rows(run["slug"])) == ["https://a", "https://b", "https://c"]


def test_rows_of_a_failed_part_of_a_succeeded_run_are_not_shown(plane: Any) -> None:
    worker = plane.push(
        "half",
        "import sys\nfrom sdk import CoreSDK\nurl = CoreSDK.Parameter.get_input_json_dict()['url']\n"
        "CoreSDK.Result.push_data({'url': url})\nsys.exit(1 if url == 'bad' else 0)\n",
        schema=SPLIT,
    )
    run = plane.run(worker, url=[{"url": "good"}, {"url": "bad"}])
    assert (run["status"], run["results"]) == ("succeeded", 1)
    assert plane.rows(run["slug"]) == [{"url": "good"}]


def test_the_upsert_pattern_ends_with_as_many_rows_as_ids(plane: Any) -> None:
    worker = plane.push(
        "upserter",
        "from sdk import CoreSDK\n"
        "for i in range(1, 10): CoreSDK.Result.upsert_data({'id': f'test-{i}', 'v': 1}, 'id')\n"
        "for i in range(1, 10, 3): CoreSDK.Result.upsert_data({'id': f'test-{i}', 'v': 2}, 'id')\n",
    )
    run = plane.run(worker)
    assert run["results"] == 9
    assert [row["v"] for row in plane.rows(run["slug"])] == [2, 1, 1, 2, 1, 1, 2, 1, 1]


def test_a_traceback_is_readable_and_names_the_workers_own_lines(plane: Any) -> None:
    worker = plane.push("raiser", "def inner():\n    raise ValueError('the reason')\n\ninner()\n")
    run = plane.run(worker)
    assert run["status"] == "failed"
    assert "the reason" in run["err_msg"]
    log = plane.log(run["slug"])
    assert 'main.py", line 2, in inner' in log
    assert "clawplane" not in log


@pytest.mark.parametrize(
    ("main", "options", "message"),
    [
        ("x = b'x' * 2_000_000_000", ("--memory", "512"), "memory"),
        ("while True: pass", ("--timeout", "2"), "timed out"),
        ("import os; os.kill(os.getpid(), 11)", (), "SIGSEGV"),
        ("import sys; sys.exit(7)", (), "7"),
    ],
    ids=["memory", "timeout", "signal", "exit code"],
)
def test_a_run_that_is_ended_says_why(
    plane: Any, request: pytest.FixtureRequest, main: str, options: tuple[str, ...], message: str
) -> None:
    name = request.node.callspec.id.replace(" ", "-")
    run = plane.run(plane.push(f"ends-by-{name}", main), *options)
    assert run["status"] == "failed"
    expected = "MemoryError" if message == "memory" and not plane.counts_memory() else message
    assert expected in run["err_msg"]


def test_a_run_aborted_in_the_very_next_request_is_accepted(plane: Any, pusher: str) -> None:
    with plane.http() as http:
        for _ in range(5):
            started = http.post(
                f"/api/v2/workers/{pusher}/runs", json={"input": {"parameters": {"custom": {"n": 1}}}}
            ).json()
            aborted = http.post(f"/api/v2/worker-runs/{started['data']['run_slug']}/abort").json()
            assert aborted["code"] == 0
            assert plane.wait(started["data"]["run_slug"])["status"] == "aborting"


def test_an_abort_ends_the_process_and_keeps_the_rows_so_far(plane: Any) -> None:
    worker = plane.push(
        "endless",
        "import time\nfrom sdk import CoreSDK\nCoreSDK.Result.push_data({'n': 1})\nprint('pushed', flush=True)\n"
        "time.sleep(1000)\n",
    )
    slug = plane.start(worker)
    with plane.http() as http, http.stream("GET", f"/v1/runs/{slug}/log", params={"follow": "true"}) as log:
        for line in log.iter_lines():
            if "pushed" in line:
                break
        http_abort = plane.cli("runs", "abort", slug)
    assert http_abort.returncode == 0
    run = plane.wait(slug)
    assert (run["status"], run["results"]) == ("aborting", 1)
    assert run["finished_at"] > 0


def test_a_synchronous_run_answers_with_its_rows(plane: Any, pusher: str) -> None:
    with plane.http() as http:
        answer = http.post(
            f"/api/v2/workers/{pusher}/runs",
            json={"input": {"parameters": {"custom": {"n": 2}}}, "is_async": False},
        ).json()["data"]
    assert answer["run_status"] == "succeeded"
    assert [row["number"] for row in answer["results"]["list"]] == [0, 1]
    assert answer["results"]["headers"] == [{"key": "number", "label": "Number", "format": "integer"}]


def test_a_rerun_is_a_new_run_with_the_same_input(plane: Any, pusher: str) -> None:
    first = plane.run(pusher, n=4)
    again = plane.json("runs", "rerun", first["slug"])
    assert again["slug"] != first["slug"]
    assert again["results"] == 4


def test_two_hundred_runs_submitted_at_once_all_finish_with_their_rows(plane: Any, pusher: str) -> None:
    with plane.http() as http, ThreadPoolExecutor(20) as pool:

        def submit(_: int) -> str:
            answer = http.post(
                f"/api/v2/workers/{pusher}/runs",
                json={"input": {"parameters": {"custom": {"n": 2}, "system": {"cpus": 1}}}},
            ).json()
            return str(answer["data"]["run_slug"])

        slugs = list(pool.map(submit, range(200)))
    assert len(set(slugs)) == 200
    plane.wait(slugs[-1])
    with plane.http() as http:
        ended = [_ended(http, plane, slug) for slug in slugs]
    assert {(run["status"], run["results"]) for run in ended} == {("succeeded", 2)}


def _ended(http: Any, plane: Any, slug: str) -> dict[str, Any]:
    run: dict[str, Any] = http.get(f"/api/v2/worker-runs/{slug}").json()["data"]
    return run if run["status"] in {"succeeded", "failed", "aborting"} else plane.wait(slug)


def test_a_broken_package_is_refused_with_every_finding(plane: Any, make_package: Any) -> None:
    file = plane.data / "broken.zip"
    file.write_bytes(make_package("x = 1", files={"input_schema.json": "{", "main.js": ""}))
    refused = plane.cli("workers", "push", str(file), check=False)
    assert refused.returncode == 1
    assert "input_schema.json" in refused.stderr
    assert plane.cli("workers", "show", "local~broken", check=False).returncode == 1


def test_requirements_that_do_not_resolve_fail_with_the_installers_own_message(plane: Any, make_package: Any) -> None:
    file = plane.data / "unresolvable.zip"
    file.write_bytes(make_package("x = 1", files={"requirements.txt": "no-such-package-anywhere-at-all==9.9.9\n"}))
    pushed = plane.json("workers", "push", str(file), check=False)
    assert pushed["status"] == "failed"
    assert "no-such-package-anywhere-at-all" in pushed["build_error"]
    assert any("no-such-package-anywhere-at-all" in line for line in pushed["log"])


def test_a_version_is_pushed_again_under_the_next_number(plane: Any) -> None:
    plane.push("twice", "print(1)")
    plane.push("twice", "print(2)")
    versions = [version["version"] for version in plane.json("workers", "show", "local~twice")["versions"]]
    assert len(versions) == 2
    assert versions == sorted(versions, reverse=True)


def test_a_workers_package_directory_is_writable_and_clean_in_the_next_run(plane: Any) -> None:
    worker = plane.push(
        "writer",
        "import pathlib\nfrom sdk import CoreSDK\np = pathlib.Path('left.txt')\n"
        "CoreSDK.Result.push_data({'was_there': p.exists()})\np.write_text('x')\n",
    )
    for _ in range(2):
        run = plane.run(worker)
        assert plane.rows(run["slug"]) == [{"was_there": False}]


def test_json_output_is_one_object_for_machines(plane: Any, pusher: str) -> None:
    done = plane.cli("runs", "start", pusher, "--json")
    assert json.loads(done.stdout)["status"] == "succeeded"
    assert done.stderr == ""
