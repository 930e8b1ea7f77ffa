"""A subtask in the real sandbox, run by a whole runner against the control plane in memory."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import msgspec
import pytest

from clawplane.domain.errors import Conflict
from clawplane.domain.leases import JobKind
from clawplane.domain.runs import RunSystem, SubtaskSpec
from clawplane.domain.workers import Environment
from clawplane.runner.daemon import run_runner

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="most Workers here are Node programs")


def spec_of(plane, content: bytes, *, language: str, input_: bytes = b"{}", **system) -> SubtaskSpec:
    key, digest = plane.put_blob(content)
    return SubtaskSpec(
        run="RUN",
        index=0,
        worker="WORKER",
        version="v1.0.0",
        language=language,
        package_key=key,
        package_sha256=digest,
        environment=Environment(fingerprint="", lock_key=""),
        input=input_,
        system=RunSystem(**system),
    )


GRPC = """
const http2 = require('http2');
const client = http2.connect('http://127.0.0.1:20086');
function field(number, text) {
  const body = Buffer.from(text); const length = [];
  let left = body.length;
  do { length.push((left & 127) | (left > 127 ? 128 : 0)); left >>>= 7; } while (left);
  return Buffer.concat([Buffer.from([number << 3 | 2, ...length]), body]);
}
function call(path, message) {
  return new Promise((resolve, reject) => {
    const head = Buffer.alloc(5); head.writeUInt32BE(message.length, 1);
    const type = 'application/grpc';
    const stream = client.request({':method': 'POST', ':path': path, 'content-type': type, te: 'trailers'});
    const got = [];
    stream.on('data', piece => got.push(piece)); stream.on('error', reject);
    stream.on('end', () => resolve(Buffer.concat(got).subarray(5)));
    stream.end(Buffer.concat([head, message]));
  });
}
const push = text => call('/coresdk.Result/PushData', field(1, text));
const log = (level, text) => call('/coresdk.Log/' + level, field(1, text));
const header = keys => call('/coresdk.Result/SetTableHeader',
  Buffer.concat(keys.map(key => field(1, Buffer.concat([field(1, key.toUpperCase()), field(2, key)]).toString()))));
const input = () => call('/coresdk.Parameter/GetInputJSONString', Buffer.alloc(0));
"""


def node(make_package, code: str, **files: str) -> bytes:
    return make_package(main__js=code, **files)


async def outcome_of(plane, content: bytes, *, language: str = "node", **system):
    offer = plane.offer(JobKind.SUBTASK, spec_of(plane, content, language=language, **system))
    return (await plane.ended(offer)).outcome, offer.job


async def test_what_a_worker_prints_is_in_its_log_behind_the_systems_lines(real_runner, plane, make_package) -> None:
    outcome, job = await outcome_of(plane, node(make_package, "console.log('hello'); console.error('oh')"))
    assert outcome.succeeded
    assert plane.lines(job, "system") == [
        f"SYSTEM: Subtask-[{job}] - Preparing the execution environment.",
        f"SYSTEM: Subtask-[{job}] - Running...",
    ]
    assert plane.lines(job, "stdout") == ["hello"]
    assert plane.lines(job, "stderr") == ["oh"]
    assert plane.lines(job)[-2:] in (["hello", "oh"], ["oh", "hello"])


async def test_rows_logs_header_and_input_pass_through_the_sdk(real_runner, plane, make_package) -> None:
    code = (
        GRPC
        + """
(async () => {
  const given = JSON.parse((await input()).toString().slice((await input()).indexOf('{')));
  await header(['a', 'b']);
  await push(JSON.stringify({a: given.q}));
  await push(JSON.stringify({id: 1, __coreclaw_upsert_key__: 'id', __coreclaw_upsert_value__: '1'}));
  await push('no json');
  await log('Warn', 'two\\nlines');
  client.close();
})();
"""
    )
    spec = spec_of(plane, node(make_package, code), language="node", input_=b'{"q":"42"}')
    offer = plane.offer(JobKind.SUBTASK, spec)
    finish = await plane.ended(offer)
    assert finish.outcome.succeeded, plane.lines(offer.job)
    rows = [row for batch in plane.batches[offer.job] for row in batch.rows]
    assert [row.body for row in rows[:2]] == [b'{"a":"42"}', b'{"id":1}']
    assert rows[1].upsert == ("id", "1")
    assert b"__parse_error" in rows[2].body
    headers = [batch.header for batch in plane.batches[offer.job] if batch.header]
    assert [(item.key, item.label, item.format) for item in headers[-1]] == [("a", "A", "text"), ("b", "B", "text")]
    warnings = [line for batch in plane.batches[offer.job] for line in batch.logs if line.type == 3]
    assert [line.content for line in warnings][-1] == "two\nlines"


async def test_rows_sent_right_before_the_exit_are_stored(real_runner, plane, make_package) -> None:
    code = (
        GRPC + "Promise.all(Array.from({length: 30}, (_, i) => push('{\"i\":' + i + '}'))).then(() => process.exit(0))"
    )
    outcome, job = await outcome_of(plane, node(make_package, code), cpus=1.0)
    assert outcome.succeeded
    assert len(plane.rows(job)) == 30


@pytest.mark.parametrize(
    ("code", "system", "reason", "message"),
    [
        ("process.exit(3)", {}, "exit", "exited with code 3"),
        ("throw new RangeError('boom')", {}, "exit", "exited with code 1: RangeError: boom"),
        ("process.kill(process.pid, 'SIGSEGV')", {}, "signal", "was killed by SIGSEGV"),
        ("setInterval(() => {}, 1000)", {"execute_limit_time_seconds": 1}, "timeout", "timed out after 1 s"),
    ],
)
async def test_an_end_is_told_in_one_sentence(real_runner, plane, make_package, code, system, reason, message) -> None:
    outcome, _ = await outcome_of(plane, node(make_package, code), **system)
    assert (outcome.succeeded, outcome.reason, outcome.message) == (False, reason, message)


async def test_a_worker_that_takes_too_much_memory_is_told_so(real_runner, plane, make_package) -> None:
    code = "const a = []; for (;;) a.push(Buffer.alloc(1 << 20, 1))"
    outcome, _ = await outcome_of(plane, node(make_package, code), memory=128, cpus=1.0)
    if outcome.reason == "signal" and os.geteuid() != 0:
        pytest.skip("without cgroups the memory limit is the address space's, and node ends itself when it is reached")
    assert (outcome.reason, outcome.message) == ("memory", "exceeded its memory limit of 128 MB")


async def test_a_worker_may_write_beside_its_files_and_nothing_of_it_stays(real_runner, plane, make_package) -> None:
    code = """
const fs = require('fs');
console.log(fs.readFileSync('data.txt', 'utf8'), fs.existsSync('made.txt'), process.cwd());
fs.writeFileSync('made.txt', 'x'); fs.writeFileSync('data.txt', 'changed');
fs.writeFileSync(process.env.TMPDIR + '/t', 'x');
"""
    content = node(make_package, code, data__txt="original")
    for _ in range(2):
        outcome, job = await outcome_of(plane, content)
        assert outcome.succeeded, plane.lines(job)
        assert plane.lines(job, "stdout") == ["original false /worker"]
    assert len(plane.downloads) == 1


async def test_the_environment_is_what_is_documented_and_nothing_of_the_runners(
    real_runner, plane, make_package, monkeypatch
) -> None:
    monkeypatch.setenv("SOMETHING_OF_THE_HOST", "x")
    _, job = await outcome_of(plane, node(make_package, "console.log(JSON.stringify(process.env))"))
    found = json.loads(plane.lines(job, "stdout")[0])
    credential = found.pop("PROXY_AUTH")
    assert re.fullmatch(r"[A-Za-z0-9_-]+:[A-Za-z0-9_-]+", credential)
    assert found == {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": "/tmp",
        "LANG": "C.UTF-8",
        "TMPDIR": "/tmp",
        "TMP": "/tmp",
        "TEMP": "/tmp",
        "PROXY_DOMAIN": "127.0.0.1:6000",
        "ChromeWs": "127.0.0.1:6001",
        "ChromeHttp": "127.0.0.1:6002",
        "CamoufoxDomain": "127.0.0.1:6003",
        "LightpandaDomain": "127.0.0.1:6004",
        "CDP_ENDPOINT": f"ws://{credential}@127.0.0.1:6001",
        "BROWSER_WS_ENDPOINT": f"ws://{credential}@127.0.0.1:6001",
    }


async def test_host_names_in_published_workers_are_this_loopback(real_runner, plane, make_package) -> None:
    code = """
const dns = require('dns').promises;
Promise.all(['chrome-ws-inner.coreclaw.com', 'proxy-inner.cafescraper.com'].map(name => dns.lookup(name, {family: 4})))
  .then(found => console.log(found.map(each => each.address).join()));
"""
    _, job = await outcome_of(plane, node(make_package, code))
    assert plane.lines(job, "stdout") == ["127.0.0.1,127.0.0.1"]


async def test_a_cancel_terminates_the_worker_which_may_say_goodbye(real_runner, plane, make_package) -> None:
    code = """
process.on('SIGTERM', () => { console.log('bye'); process.exit(0) });
console.log('up'); setInterval(() => {}, 1e6);
"""
    offer = plane.offer(JobKind.SUBTASK, spec_of(plane, node(make_package, code), language="node", cpus=1.0))
    await plane.changes.until(lambda: "up" in plane.lines(offer.job), "it runs")
    plane.connection.cancel(offer.job, offer.fence, "asked")
    outcome = (await plane.ended(offer)).outcome
    assert (outcome.succeeded, outcome.reason, outcome.message) == (False, "aborted", "was aborted")
    assert "bye" in plane.lines(offer.job)


async def test_a_lost_lease_kills_the_worker(real_runner, plane, make_package) -> None:
    code = "console.log('up'); setInterval(() => console.log('tick'), 5)"
    offer = plane.offer(JobKind.SUBTASK, spec_of(plane, node(make_package, code), language="node", cpus=1.0))
    await plane.changes.until(lambda: "up" in plane.lines(offer.job), "it runs")
    plane.take_back(offer)
    await plane.changes.until(lambda: real_runner.running == 0, "nothing runs any more")


async def test_a_line_of_ten_megabytes_and_many_lines_leave_a_bounded_log(real_runner, plane, make_package) -> None:
    code = "process.stdout.write('x'.repeat(1e7) + '\\n'); for (let i = 0; i < 20000; i++) console.log('line ' + i)"
    outcome, job = await outcome_of(plane, node(make_package, code), cpus=2.0, execute_limit_time_seconds=60)
    assert outcome.succeeded
    lines = plane.lines(job, "stdout")
    assert "cut: the line is 10000000 bytes long" in lines[0][-80:]
    assert lines[1:] == [f"line {number}" for number in range(20000)]


async def test_a_compiled_worker_runs(real_runner, plane, make_package) -> None:
    program = Path("/usr/bin/env").resolve().read_bytes()
    outcome, job = await outcome_of(plane, make_package(main=program), language="go")
    assert outcome.succeeded, outcome
    assert any(line.startswith("PROXY_DOMAIN=") for line in plane.lines(job, "stdout"))


async def test_a_package_that_is_gone_is_told_as_a_failed_preparation(real_runner, plane, make_package) -> None:
    spec = spec_of(plane, node(make_package, ""), language="node")
    plane.blobs.clear()
    offer = plane.offer(JobKind.SUBTASK, spec)
    outcome = (await plane.ended(offer)).outcome
    assert outcome.reason == "setup"
    assert "There is no such blob" in outcome.message


@pytest.mark.skipif(shutil.which("npm") is None, reason="this host has no npm")
async def test_the_lock_is_fetched_for_the_first_subtask_and_never_again(real_runner, plane, make_package) -> None:
    plane.blobs["locks/" + hashlib.sha256(b"").hexdigest()] = b""
    spec = spec_of(plane, node(make_package, ""), language="node")
    locked = Environment(fingerprint="", lock_key="locks/" + hashlib.sha256(b"").hexdigest())
    for _ in range(2):
        offer = plane.offer(JobKind.SUBTASK, msgspec.structs.replace(spec, environment=locked))
        assert (await plane.ended(offer)).outcome.succeeded
    assert plane.downloads == [spec.package_key, locked.lock_key]


@pytest.mark.skipif(shutil.which("npm") is None, reason="this host has no npm")
async def test_a_lock_that_is_gone_is_told_as_a_failed_preparation(real_runner, plane, make_package) -> None:
    spec = spec_of(plane, node(make_package, ""), language="node")
    locked = Environment(fingerprint="", lock_key=f"locks/{'a' * 64}")
    offer = plane.offer(JobKind.SUBTASK, msgspec.structs.replace(spec, environment=locked))
    outcome = (await plane.ended(offer)).outcome
    assert outcome.reason == "setup"
    assert "There is no such blob" in outcome.message


async def test_two_subtasks_at_once_speak_through_their_own_sdk(real_runner, plane, make_package) -> None:
    code = (
        GRPC
        + "input().then(async found => { const text = found.toString();"
        + " await push(text.slice(text.indexOf('{'))); client.close() })"
    )
    content = node(make_package, code)
    offers = [
        plane.offer(JobKind.SUBTASK, spec_of(plane, content, language="node", input_=b'{"n":%d}' % number))
        for number in range(2)
    ]
    for number, offer in enumerate(offers):
        await plane.ended(offer)
        assert plane.rows(offer.job) == [b'{"n":%d}' % number]


async def test_a_second_runner_in_the_same_directory_is_refused(real_runner, settings) -> None:
    with pytest.raises(Conflict, match="Another runner"):
        await run_runner(settings)
