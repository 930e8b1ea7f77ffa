"""The table of tools, in the order in which they are listed."""

from __future__ import annotations

from collections.abc import Sequence

from clawplane.api.mcp import answers, arguments, code_tools, file_tools, session_tools
from clawplane.api.mcp.entries import ToolEntry

_SAME = " Without session_id a new session is started; its id is in the answer, so that the next call can go on in it."


def table() -> Sequence[ToolEntry]:
    """Return all tools."""
    return (*_code(), *_sessions(), *_files())


def _code() -> Sequence[ToolEntry]:
    return (
        ToolEntry(
            name="execute_python",
            title="Run Python",
            description=(
                "Run Python in a persistent interpreter: variables, imports and functions survive from call to call. "
                "The last expression is a result, as in a notebook; matplotlib figures come back as images; top-level "
                "await works. Files are in /workspace." + _SAME
            ),
            arguments=arguments.ExecutePython,
            answer=answers.CodeAnswer,
            handler=code_tools.execute_python,
            destroys=True,
            code=True,
            open_world=True,
        ),
        ToolEntry(
            name="execute_shell",
            title="Run a shell command",
            description=(
                "Run a command in bash in /workspace, which Python and Node share. curl, git and pip reach public "
                "addresses. No state but files survives a call." + _SAME
            ),
            arguments=arguments.ExecuteShell,
            answer=answers.CodeAnswer,
            handler=code_tools.execute_shell,
            destroys=True,
            code=True,
            open_world=True,
        ),
        ToolEntry(
            name="execute_node",
            title="Run JavaScript",
            description=(
                "Run JavaScript with Node.js in /workspace; require works. Print what you want to see with "
                "console.log. No state but files survives a call." + _SAME
            ),
            arguments=arguments.ExecuteNode,
            answer=answers.CodeAnswer,
            handler=code_tools.execute_node,
            destroys=True,
            code=True,
            open_world=True,
        ),
        ToolEntry(
            name="reset_repl",
            title="Reset Python",
            description="Forget all Python variables and imports of a session. Its files stay.",
            arguments=arguments.ResetRepl,
            answer=answers.CodeAnswer,
            handler=code_tools.reset_repl,
            destroys=True,
            repeats=True,
            code=True,
        ),
    )


def _sessions() -> Sequence[ToolEntry]:
    one = answers.SessionAnswer
    return (
        ToolEntry(
            name="session_create",
            title="Start a session",
            description="Start a session with chosen packages or a named workspace. Usually not needed: "
            "every other tool starts one by itself.",
            arguments=arguments.SessionCreate,
            answer=one,
            handler=session_tools.session_create,
        ),
        ToolEntry(
            name="session_list",
            title="List sessions",
            description="List the sessions that have not ended.",
            arguments=arguments.SessionList,
            answer=answers.SessionsAnswer,
            handler=session_tools.session_list,
            reads=True,
            repeats=True,
        ),
        ToolEntry(
            name="session_state",
            title="Describe a session",
            description="Say whether a session runs or sleeps, when it will sleep and expire, and what it uses.",
            arguments=arguments.SessionOnly,
            answer=one,
            handler=session_tools.session_state,
            reads=True,
            repeats=True,
        ),
        ToolEntry(
            name="session_branch",
            title="Copy a session",
            description="Make an independent copy of a live session with all its variables, to try something out.",
            arguments=arguments.SessionOnly,
            answer=one,
            handler=session_tools.session_branch,
        ),
        ToolEntry(
            name="session_rollback",
            title="Undo",
            description="Bring the Python variables back to what they were before the last executions. "
            "Files are not changed.",
            arguments=arguments.SessionRollback,
            answer=one,
            handler=session_tools.session_rollback,
            destroys=True,
        ),
        ToolEntry(
            name="session_delete",
            title="End a session",
            description="End a session and delete its own workspace; a named workspace stays.",
            arguments=arguments.SessionOnly,
            answer=answers.Done,
            handler=session_tools.session_delete,
            destroys=True,
            repeats=True,
        ),
    )


def _files() -> Sequence[ToolEntry]:
    return (
        ToolEntry(
            name="workspace_list",
            title="List files",
            description="List a directory of the workspace.",
            arguments=arguments.WorkspaceList,
            answer=answers.FilesAnswer,
            handler=file_tools.workspace_list,
            reads=True,
            repeats=True,
        ),
        ToolEntry(
            name="workspace_read",
            title="Read a file",
            description="Read a file of the workspace, or a piece of it; an image comes back as an image.",
            arguments=arguments.WorkspaceRead,
            answer=answers.ReadAnswer,
            handler=file_tools.workspace_read,
            reads=True,
            repeats=True,
        ),
        ToolEntry(
            name="workspace_write",
            title="Write a file",
            description="Write a file to the workspace; directories are made as needed." + _SAME,
            arguments=arguments.WorkspaceWrite,
            answer=answers.FileAnswer,
            handler=file_tools.workspace_write,
            destroys=True,
        ),
        ToolEntry(
            name="workspace_edit",
            title="Edit a file",
            description="Replace text in a file of the workspace, once or everywhere.",
            arguments=arguments.WorkspaceEdit,
            answer=answers.EditAnswer,
            handler=file_tools.workspace_edit,
            destroys=True,
        ),
        ToolEntry(
            name="workspace_delete",
            title="Delete a file",
            description="Delete a file or directory of the workspace.",
            arguments=arguments.WorkspaceDelete,
            answer=answers.Done,
            handler=file_tools.workspace_delete,
            destroys=True,
        ),
        ToolEntry(
            name="workspace_download",
            title="Download",
            description="Get the address at which a file, or the whole workspace as a ZIP, can be downloaded.",
            arguments=arguments.WorkspaceDownload,
            answer=answers.DownloadAnswer,
            handler=file_tools.workspace_download,
            reads=True,
            repeats=True,
        ),
    )
