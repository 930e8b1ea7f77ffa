"""What the control plane asks of a runner itself (job 0), and how an error tells whether a question took effect."""

from __future__ import annotations

from typing import Final

import msgspec

from clawplane.domain.asks import Nothing

REFUSED: Final = "refused"
"""In an error's details: nothing of the question was done, it may be asked again elsewhere."""

CUT: Final = "link_cut"
"""In an error's details: the link was cut before the answer came; what was asked may have been done."""


class ForgetSession(msgspec.Struct, frozen=True, kw_only=True):
    """Delete what is saved of a session that has ended, its own workspace included; absent is fine."""

    session: str


class ForgetWorkspace(msgspec.Struct, frozen=True, kw_only=True):
    """Delete a named workspace to which no session is attached; absent is fine."""

    owner: str
    workspace: str


RUNNER_METHODS: dict[str, tuple[type[msgspec.Struct], None, type[msgspec.Struct]]] = {
    "forget_session": (ForgetSession, None, Nothing),
    "forget_workspace": (ForgetWorkspace, None, Nothing),
}
"""method -> (question, no events, answer); asked with job 0 and fence 0"""
