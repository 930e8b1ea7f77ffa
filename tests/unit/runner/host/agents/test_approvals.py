"""A person who is asked about a tool sees both ends of what it is to do."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from clawplane.runner.host.agents.approval_hook import ask
from clawplane.runner.host.agents.approvals import approving
from clawplane.runner.host.agents.turn import ToolAnswer, ToolAsk


async def test_what_a_long_command_ends_with_is_shown_to_who_decides(tmp_path: Path) -> None:
    asked: list[ToolAsk] = []

    async def person(question: ToolAsk) -> ToolAnswer:
        asked.append(question)
        return ToolAnswer(allowed=False, reason="no")

    command = f"echo {'x' * 50_000}; rm -rf ~"
    hook = json.dumps({"tool_name": "Bash", "tool_input": {"command": command}, "cwd": "/srv"}).encode()
    async with approving(tmp_path / "a", person, seconds=20) as settings:
        address = str(settings.parent / "s")
        assert await asyncio.to_thread(ask, address, 20.0, hook) == (False, "no")
    (question,) = asked
    assert (question.tool, question.cwd) == ("Bash", "/srv")
    assert question.detail.endswith('; rm -rf ~"}')
    assert "characters are not shown here" in question.detail
    assert len(question.detail) < 4100
