"""No password is printed, whatever characters it has and however a library quotes it."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trainer.passwords import OF_ADDRESSES, SECRET, answered, hide_passwords

PRINTABLE = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20)


@given(PRINTABLE)
@example("p/SECRET")
@example("p@SECRET")
@example("p:a@b/c?d=e&f#g")
def test_the_password_of_an_address_is_hidden_whatever_its_characters(password: str) -> None:
    for form in (password, quote(password, safe="")):
        said = f"ledger postgresql+psycopg://user:{form}@db.example.org:5432/ledger: no route to host"
        assert (
            hide_passwords(said) == "ledger postgresql+psycopg://user:***@db.example.org:5432/ledger: no route to host"
        )


def test_an_address_without_a_password_is_shown_whole() -> None:
    for said in (
        "http://lab.example:5000 does not answer",
        "postgresql://ledger@db.example/ledger",
        "sqlite:////a/b.db: locked",
        "http://lab.example/?password_reset=no",
    ):
        assert hide_passwords(said) == said


@pytest.mark.parametrize("variable", OF_ADDRESSES)
def test_a_part_of_an_address_that_a_library_quotes_is_hidden_as_well(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "http://u:hunter%2F22@nohost.invalid/?sslpassword=certain33")
    assert hide_passwords("nonnumeric port: 'hunter%2F22@nohost.invalid'") == "nonnumeric port: '***@nohost.invalid'"
    assert hide_passwords("no user u with hunter/22, certain33") == "no user u with ***, ***"


@pytest.mark.parametrize("variable", SECRET)
def test_what_the_environment_keeps_secret_is_hidden_wherever_it_stands(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "hunter22")
    assert hide_passwords("401: hunter22 is not it") == "401: *** is not it"
    monkeypatch.setenv(variable, "a")
    assert hide_passwords("a lab") == "a lab"


@pytest.mark.parametrize(
    ("cause", "said"),
    [
        (
            "API request failed with error code 401 != 200. Response body: 'You are not",
            "asks for a password: ",
        ),
        (
            "API request failed with error code 403 != 200. Response body: 'Invalid Host",
            "refuses this host ",
        ),
        (
            "HTTPConnectionPool(host='x', port=1): Max retries exceeded with url: /api (Caused by NewConnectionError("
            "Failed to establish a new connection: [Errno 111] Connection refused))",
            "does not answer: [Errno 111] Connection refused",
        ),
        ("connection to server failed", "does not answer: connection to server failed"),
    ],
)
def test_what_mlflow_answers_is_said_with_what_to_do(cause: str, said: str) -> None:
    assert answered(cause).startswith(said)
