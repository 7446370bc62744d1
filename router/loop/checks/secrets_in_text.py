"""Passwords, keys and tokens, by their labels and by the shapes of known kinds (detect-secrets)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

from router.gateway.redact import secret_spans
from router.loop.checks.findings import Span, matches
from router.loop.checks.folding import FoldedText

_LABELLED = re.compile(
    r"(?:pass(?:word|wd|phrase|code)|pwd|passwort|kennwort|mot de passe|contrase[nñ]a|senha|"
    r"wachtwoord|hasło|пароль|密码|密碼|パスワード|비밀번호|"
    r"api[ _-]?key|secret(?:[ _-]?key)?|access[ _-]?key|auth[ _-]?key|private[ _-]?key|"
    r"[a-z_-]{0,24}token|credentials?)"
    r"[\"'`*]{0,3}[ \t]{0,4}(?:=>|:=|=|:|\uff1a|\bis\b|\bist\b|\best\b|\bes\b|\u662f|\u306f)"
    r"[ \t]{0,4}[\"'`*]{0,3}(?P<value>[^\s\"'`]{4,400})",
    re.IGNORECASE,
)
_PLACEHOLDER = re.compile(r"[\[<{(*$%]|x{3,}|\.{3}|your[_-]", re.IGNORECASE)
_PRIVATE = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----|PuTTY-User-Key-File")
_PRIVATE_END = re.compile(r"-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----|Private-MAC: \w*")
_ENCODED = re.compile(r"[A-Za-z0-9+/=\s:,-]*")
# What a token goes on with where a pattern of its kind knows its beginning only.
_TOKEN = re.compile(r"[A-Za-z0-9_+/=~-]*")
_LONG_GROUP = 16


def secrets_in_text(folded: FoldedText) -> Iterator[Span]:
    """Yield the secrets of a text, each to the end of its token."""
    text = folded.text
    token_start = token_end = 0
    for start, end in _values(text):
        if token_start <= start <= end <= token_end:
            # A part of the token before, which is the secret as a whole.
            continue
        token = _TOKEN.match(text, end)
        token_start, token_end = start, token.end() if token else end
        yield Span(start, token_end, text[start:token_end])
    yield from _private_keys(text)


def _values(text: str) -> Iterator[tuple[int, int]]:
    # One byte for each character, so that places are the same.
    yield from secret_spans(text.encode("ascii", "replace"))
    for match in matches(_LABELLED, text):
        value = match["value"].rstrip(".,;:!?)]}")
        if _is_secret(value):
            yield match.start("value"), match.start("value") + len(value)
    for pattern in _patterns():
        for match in matches(pattern, text):
            # A long group is the value without its label.
            group = 1 if match.lastindex and len(match[1] or "") >= _LONG_GROUP else 0
            yield match.span(group)


def _is_secret(value: str) -> bool:
    """Return whether what follows a label is a value, and neither a word nor a placeholder."""
    return (
        len(value) >= 4
        and not _PLACEHOLDER.match(value)
        and not (value.isalpha() and value.islower())
        and any(not character.isalpha() for character in value)
    )


def _private_keys(text: str) -> Iterator[Span]:
    behind = 0
    for match in matches(_PRIVATE, text):
        if match.start() < behind:
            continue
        rest = _ENCODED.match(text, match.end())
        behind = rest.end() if rest else match.end()
        last = _PRIVATE_END.match(text, max(behind - 5, match.end()))
        if last is None:
            last = _PRIVATE_END.search(text, match.end(), behind + 100)
        behind = max(behind, last.end()) if last else behind
        yield Span(match.start(), behind, text[match.start() : behind])


@cache
def _patterns() -> tuple[re.Pattern[str], ...]:
    """Return the patterns of detect-secrets that know a kind of secret by its shape.

    Those are left out whose time grows with the square of a text or more (Cloudant, IBM, JWT, npm,
    OpenAI, SoftLayer), which `_LABELLED` and `redact` have in another form, and public IP
    addresses, which are no secrets.
    """
    # The package takes a second to import.
    from detect_secrets.plugins import (  # noqa: PLC0415  # see above
        artifactory,
        aws,
        azure_storage_key,
        basic_auth,
        discord,
        github_token,
        gitlab_token,
        mailchimp,
        pypi_token,
        sendgrid,
        slack,
        square_oauth,
        stripe,
        telegram_token,
        twilio,
    )

    detectors = (
        artifactory.ArtifactoryDetector,
        aws.AWSKeyDetector,
        azure_storage_key.AzureStorageKeyDetector,
        basic_auth.BasicAuthDetector,
        discord.DiscordBotTokenDetector,
        github_token.GitHubTokenDetector,
        gitlab_token.GitLabTokenDetector,
        mailchimp.MailchimpDetector,
        pypi_token.PypiTokenDetector,
        sendgrid.SendGridDetector,
        slack.SlackDetector,
        square_oauth.SquareOAuthDetector,
        stripe.StripeDetector,
        telegram_token.TelegramBotTokenDetector,
        twilio.TwilioKeyDetector,
    )
    return tuple(pattern for detector in detectors for pattern in detector.denylist)
