from __future__ import annotations

import pytest

from clawplane.builder.errors import ManifestRefused
from clawplane.builder.requirements import read_requirements

SHA = "a" * 64


def names(text: str) -> list[str]:
    return [str(requirement) for requirement in read_requirements(text.encode()).requirements]


@pytest.mark.parametrize(
    ("line", "normal"),
    [
        ("Requests", "requests"),
        ("six==1.16.0", "six==1.16.0"),
        ("  Typing_Extensions >= 4.0 , <5  # why", "typing-extensions<5,>=4.0"),
        ("requests[socks, Security] ~= 2.8.1", "requests[security,socks]~=2.8.1"),
        ("zope.interface (>=5.0)", "zope-interface>=5.0"),
        ("pywin32 >= 1.0 ; sys_platform == 'win32'", "pywin32>=1.0 ; sys_platform == 'win32'"),
        ("torch==2.1.0+cpu", "torch==2.1.0+cpu"),
        ("django==4.*", "django==4.*"),
        ("a!=1.0,!=1.1", "a!=1.0,!=1.1"),
        ("epoch===1!2.0", "epoch===1!2.0"),
        (f"six==1.16.0 --hash=sha256:{SHA}", f"six==1.16.0 --hash=sha256:{SHA}"),
        (f"six==1.16.0 \\\n    --hash=sha256:{SHA} \\\n    --hash=sha256:{'b' * 64}", None),
    ],
)
def test_what_names_a_published_version_is_accepted(line: str, normal: str | None) -> None:
    expected = normal or f"six==1.16.0 --hash=sha256:{SHA} --hash=sha256:{'b' * 64}"
    assert names(line) == [expected]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("-r other.txt", "includes another file"),
        ("--requirement=other.txt", "includes another file"),
        ("-c constraints.txt", "includes a constraints file"),
        ("-e .", "editable"),
        ("--editable git+https://host/x", "editable"),
        ("-i https://host/simple", "chooses a package index"),
        ("-ihttps://host/simple", "chooses a package index"),
        ("--index-url https://host/simple", "chooses a package index"),
        ("--extra-index-url=https://host/simple", "chooses a package index"),
        ("--find-links ./wheels", "chooses a place"),
        ("-f ./wheels", "chooses a place"),
        ("--no-index", "switches the package index off"),
        ("--trusted-host host", "chooses a host to trust"),
        ("--pre", "every pre-release"),
        ("--no-binary :all:", "source build"),
        ("--global-option=--evil", "not accepted"),
        ("git+ssh://git@host/x.git", "from an address"),
        ("six @ https://host/six.whl", "from an address"),
        ("six[x]@file:///etc/passwd", "from an address"),
        ("https://host/six-1.0.tar.gz", "from an address"),
        ("./six", "local file"),
        ("../six", "local file"),
        ("/etc/passwd", "local file"),
        ("~/six", "local file"),
        ("wheels/six.whl", "local file"),
        ("six-1.0-py3-none-any.whl", "local file"),
        ("C:\\six", "local file"),
        ("six==1.0 --config-settings=x=y", "carries an option"),
        ("six; rm -rf /", "no requirement"),
        ("six $(id)", "no requirement"),
        ("six==1.0 other", "no requirement"),
        ("six=1.0", "no requirement"),
        ("${HOME}", "no requirement"),
        ("six==${SECRET}", "no requirement"),
        ("_six", "no requirement"),
    ],
)
def test_what_comes_from_elsewhere_is_refused_with_its_line(line: str, reason: str) -> None:
    with pytest.raises(ManifestRefused) as caught:
        names(f"# first\nrequests\n{line}\n")
    assert (caught.value.file, caught.value.line) == ("requirements.txt", 3)
    assert reason in caught.value.reason
    assert caught.value.hint


def test_a_password_in_a_refused_address_is_not_repeated() -> None:
    with pytest.raises(ManifestRefused) as caught:
        names("six @ https://user:hunter2@host/six.whl")
    assert "hunter2" not in str(caught.value)


def test_a_file_written_by_a_windows_shell_is_read() -> None:
    assert [str(entry) for entry in read_requirements("six==1.16.0\r\n".encode("utf-16")).requirements] == [
        "six==1.16.0"
    ]
    assert [str(entry) for entry in read_requirements(b"\xef\xbb\xbfsix\r\n").requirements] == ["six"]


@pytest.mark.parametrize("content", [b"\xff\x00\xff", b"six\x00==1", b"x" * (2 << 20), b"a\n" * 3_000])
def test_what_is_no_text_or_far_too_much_is_refused(content: bytes) -> None:
    with pytest.raises(ManifestRefused):
        read_requirements(content)


def test_options_that_change_nothing_are_accepted() -> None:
    assert names("--prefer-binary\n--only-binary=:all:\nsix\n") == ["six"]
