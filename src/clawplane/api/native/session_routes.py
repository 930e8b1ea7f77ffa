"""The route table of tools, sessions and workspaces; all of it needs the scope `sessions`, and none has an envelope."""

from __future__ import annotations

from typing import Any, Final, Literal

from clawplane.api.calls import Handler, Operation, Parameter
from clawplane.api.native import session_shapes as shapes
from clawplane.api.native import sessions, tools, workspaces
from clawplane.api.pages import LIMIT, OFFSET
from clawplane.domain.access import Scope

_PAGE: Final = (OFFSET, LIMIT)
_SESSION: Final = "/v1/sessions/{sessionId}"
_FILES: Final = f"{_SESSION}/files"
_OCTETS: Final = "application/octet-stream"


def operations() -> list[Operation]:
    """Return the table."""
    return [*_tools(), *_sessions(), *_execs(), *_files(), *_workspaces()]


def _tools() -> list[Operation]:
    return [
        _tool("execute_python", "executePython", "Run Python in a session", tools.execute("python"), shapes.ToolAnswer),
        _tool("execute_shell", "executeShell", "Run a command in bash", tools.execute("shell"), shapes.ToolAnswer),
        _tool("execute_node", "executeNode", "Run JavaScript with Node.js", tools.execute("node"), shapes.ToolAnswer),
        _tool("reset_repl", "resetRepl", "Forget all Python variables", tools.reset_repl, shapes.ToolAnswer),
        _tool("workspace_list", "workspaceList", "List files", tools.workspace_list, shapes.FileListing),
        _tool("workspace_read", "workspaceRead", "Read a file", tools.workspace_read, shapes.FileText),
        _tool(
            "workspace_write",
            "workspaceWrite",
            "Write a file that fits into a JSON body; larger ones: `PUT /v1/sessions/{sessionId}/files/content`",
            tools.workspace_write,
            shapes.FileDone,
        ),
        _tool("workspace_edit", "workspaceEdit", "Replace text in a file", tools.workspace_edit, shapes.FileEdited),
        _tool("workspace_delete", "workspaceDelete", "Delete a file", tools.workspace_delete, shapes.FileDeleted),
        _tool(
            "workspace_download",
            "workspaceDownload",
            "Say where to fetch",
            tools.workspace_download,
            shapes.FileLink,
        ),
    ]


def _sessions() -> list[Operation]:
    one = shapes.SessionBody
    return [
        _line(
            "POST",
            "/v1/sessions",
            "createSession",
            "Create a session",
            sessions.create_session,
            data=one,
            body=shapes.CreateSession,
        ),
        _line(
            "GET",
            "/v1/sessions",
            "listSessions",
            "List the sessions",
            sessions.list_sessions,
            data=shapes.SessionList,
            query=(*_PAGE, sessions.STATE, sessions.NAME),
        ),
        _line("GET", _SESSION, "getSession", "Get a session", sessions.get_session, data=one),
        _line("DELETE", _SESSION, "deleteSession", "End a session", sessions.delete_session, data=one),
        _line("POST", f"{_SESSION}/interrupt", "interruptSession", "Interrupt", sessions.interrupt, data=shapes.Done),
        _line("POST", f"{_SESSION}/reset", "resetSession", "Replace the interpreter", sessions.reset, data=one),
        _line("POST", f"{_SESSION}/rollback", "rollbackSession", "Undo the last execs", sessions.rollback, data=one),
        _line("POST", f"{_SESSION}/branch", "branchSession", "Copy the live interpreter", sessions.branch, data=one),
        _line("POST", f"{_SESSION}/sleep", "sleepSession", "Let a session sleep", sessions.sleep, data=one),
    ]


def _execs() -> list[Operation]:
    return [
        _line(
            "POST",
            f"{_SESSION}/exec",
            "execInSession",
            "Execute code",
            sessions.exec_code,
            data=shapes.ToolAnswer,
            body=shapes.ExecBody,
            body_required=True,
        ),
        _line(
            "GET",
            f"{_SESSION}/execs",
            "listExecs",
            "List what was executed",
            sessions.list_execs,
            data=shapes.ExecList,
            query=_PAGE,
        ),
        _line(
            "GET",
            f"{_SESSION}/notebook",
            "getNotebook",
            "Export the history as a notebook",
            sessions.get_notebook,
            data=None,
            media="application/x-ipynb+json",
        ),
    ]


def _files() -> list[Operation]:
    path = sessions.PATH
    return [
        _line(
            "GET",
            _FILES,
            "listSessionFiles",
            "List files",
            sessions.list_files,
            data=shapes.FileListing,
            query=(path, sessions.RECURSIVE, sessions.MOST),
        ),
        _line(
            "DELETE",
            _FILES,
            "deleteSessionFile",
            "Delete a file",
            sessions.delete_file,
            data=shapes.FileDeleted,
            query=(path, sessions.RECURSIVE),
        ),
        _line(
            "GET",
            f"{_FILES}/content",
            "readSessionFile",
            "Download a file",
            sessions.read_file,
            data=None,
            query=(path, sessions.OFFSET, sessions.BYTES, sessions.ENCODING),
            media=_OCTETS,
        ),
        _line(
            "PUT",
            f"{_FILES}/content",
            "writeSessionFile",
            "Upload a file",
            sessions.write_file,
            data=shapes.FileDone,
            query=(path, sessions.APPEND, sessions.CREATE_ONLY),
        ),
        _line(
            "GET",
            f"{_FILES}/stat",
            "statSessionFile",
            "Describe an entry",
            sessions.stat_file,
            data=shapes.FileDone,
            query=(path,),
        ),
        _line("POST", f"{_FILES}/edit", "editSessionFile", "Replace text", sessions.edit_file, data=shapes.FileEdited),
        _line("POST", f"{_FILES}/move", "moveSessionFile", "Rename", sessions.move_file, data=shapes.FileDone),
        _line(
            "POST",
            f"{_FILES}/directories",
            "makeSessionDirectory",
            "Make a directory",
            sessions.make_directory,
            data=shapes.FileDone,
        ),
        _line(
            "GET",
            f"{_SESSION}/archive",
            "archiveSession",
            "Download the workspace as a ZIP",
            sessions.archive,
            data=None,
            query=(path,),
            media="application/zip",
        ),
    ]


def _workspaces() -> list[Operation]:
    return [
        _line(
            "GET",
            "/v1/workspaces",
            "listWorkspaces",
            "List the named workspaces",
            workspaces.list_workspaces,
            data=shapes.WorkspaceList,
        ),
        _line(
            "DELETE",
            "/v1/workspaces/{name}",
            "deleteWorkspace",
            "Delete a named workspace",
            workspaces.delete_workspace,
            data=shapes.Done,
        ),
        _line(
            "GET",
            "/v1/sandbox/capabilities",
            "getCapabilities",
            "Tell what sessions can be",
            workspaces.capabilities,
            data=shapes.Capabilities,
        ),
    ]


def _tool(name: str, operation_id: str, summary: str, handler: Handler, data: object) -> Operation:
    return _line("POST", f"/v1/tools/{name}", operation_id, summary, handler, data=data)


def _line(
    method: Literal["GET", "POST", "PUT", "DELETE"],
    path: str,
    operation_id: str,
    summary: str,
    handler: Handler,
    *,
    data: object,
    query: tuple[Parameter, ...] = (),
    **more: Any,
) -> Operation:
    return Operation(
        method=method,
        path=path,
        operation_id=operation_id,
        summary=summary,
        handler=handler,
        tag=path.split("/")[2],
        scope=Scope.SESSIONS,
        query=query,
        data=data,
        **more,
    )
