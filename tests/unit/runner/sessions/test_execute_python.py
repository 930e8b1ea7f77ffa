"""Python in a session: results, output, errors, limits, and what is left afterwards."""

from __future__ import annotations


async def test_the_value_of_the_last_expression_is_a_result(stay):
    result = await stay.python("1+1")
    assert (result.status, result.error) == ("ok", None)
    assert result.results == ({"text/plain": "2", "_main": True},)


async def test_variables_live_from_call_to_call(stay):
    await stay.python("x = 41")
    assert (await stay.python("x + 1")).results[0]["text/plain"] == "42"


async def test_what_is_printed_comes_apart_from_what_goes_to_stderr(stay):
    result = await stay.python("import sys; print('out'); print('err', file=sys.stderr)")
    assert (result.stdout, result.stderr) == ("out\n", "err\n")


async def test_a_shell_command_sees_the_files_of_the_interpreter(stay):
    await stay.python("open('/workspace/a.txt', 'w').write('hello')")
    assert (await stay.shell("cat a.txt")).stdout == "hello"
