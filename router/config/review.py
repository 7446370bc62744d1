"""`review:` of the config: how rows are checked before they become part of a dataset."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Annotated, Literal

import msgspec

from providers.base import NotNegative, Positive
from router.config.documents import Document, Problem
from router.config.providers import Providers
from router.config.routes import target_problem
from router.config.section import Count, Section
from router.config.shadow import sharing_problems

DataAction = Literal["placeholder", "mask", "drop", "keep"]
RowAction = Literal["flag", "drop", "ignore"]

_Share = Annotated[float, msgspec.Meta(gt=0, le=1)]


class PersonalData(Section, frozen=True, kw_only=True):
    """What happens to personal data and secrets in a text.

    `placeholder` writes `[EMAIL_kdjfhgmnop]`, the same letters for the same value; `mask` writes
    `[EMAIL]`; `drop` leaves the row out; `keep` leaves the text as it is. All are listed.

    Attributes:
        email: e-mail addresses.
        phone: telephone numbers, with the country's code or as people in `countries` write them.
        iban: bank accounts, by their checksum.
        card: payment cards, by their checksum.
        national_id: numbers of persons (tax, health, social security), by their checksums.
        ip: IPv4 and IPv6 addresses.
        secret: passwords, keys and tokens.
        media: images, sound and files, which are not searched.
        countries: ISO 3166 codes of the countries whose telephone numbers are also recognised
            without the country's code.
    """

    email: DataAction = "placeholder"
    phone: DataAction = "placeholder"
    iban: DataAction = "placeholder"
    card: DataAction = "placeholder"
    national_id: DataAction = "placeholder"
    ip: DataAction = "placeholder"
    secret: DataAction = "mask"  # noqa: S105  # what happens to one
    media: DataAction = "mask"
    countries: tuple[Annotated[str, msgspec.Meta(pattern="^[A-Z]{2}$")], ...] = (
        "US",
        "GB",
        "DE",
        "FR",
        "ES",
        "IT",
        "NL",
        "PL",
        "BR",
        "IN",
        "JP",
    )


class Pranks(Section, frozen=True, kw_only=True):
    """What happens to rows that are no honest examples.

    `flag` lists it and leaves the decision to a person, `drop` leaves the row out, `ignore` does
    not search for it.

    Attributes:
        duplicate: rows with the same words as an earlier one.
        near_duplicate: rows that share `similarity` of their word groups with an earlier one.
        too_short: rows whose last message of the user, or whose reference, has fewer than
            `min_letters` letters and digits.
        language: rows in another language than `languages`.
        injection: texts that try to change a model's instructions.
        toxicity: rows to which `review.judge` gives `toxicity_score` or more; `drop` rejects them.
        similarity: the estimated share of word groups in common, from which on rows are near
            duplicates.
        toxicity_score: 1 (harmless) to 5, see `toxicity`.
        min_letters: see `too_short`.
        languages: ISO 639-1 codes; () allows all. Needs the extra `metrics`.
    """

    duplicate: RowAction = "drop"
    near_duplicate: RowAction = "flag"
    too_short: RowAction = "flag"
    language: RowAction = "flag"
    injection: RowAction = "flag"
    toxicity: RowAction = "flag"
    similarity: _Share = 0.8
    toxicity_score: Annotated[float, msgspec.Meta(ge=1, le=5)] = 3.0
    min_letters: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 2
    languages: tuple[Annotated[str, msgspec.Meta(pattern="^[a-z]{2}$")], ...] = ()


class Review(Section, frozen=True, kw_only=True):
    """What is checked before a row becomes part of a dataset, and how long it waits for a person.

    Attributes:
        personal_data: see PersonalData.
        pranks: see Pranks.
        dataset: the dataset that reviewed rows become a version of, unless a row names another.
        expire_days: how many days a row waits; then it is deleted, unless it has been accepted.
        max_rows: how many rows may wait; further ones are refused.
        judge: who says how toxic the rows that wait are: a route or `provider/model`. None for no
            judge. It sees a row without its personal data, and only where the route of the row's
            request names the judge's provider in its `share_bodies_with`.
        share_bodies_with: names of providers whose judge may see imported rows, which have no
            route.
        judge_usd_per_day: US dollars that the judge may cost a day (UTC); 0 for none. Requests of
            an unknown price cost nothing.
    """

    personal_data: PersonalData = PersonalData()
    pranks: Pranks = Pranks()
    dataset: Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")] = "reviewed"
    expire_days: Positive = 30.0
    max_rows: Count = 100_000
    judge: str | None = None
    share_bodies_with: tuple[str, ...] = ()
    judge_usd_per_day: NotNegative = 1.0


def review_problems(
    document: Document,
    review: Review,
    providers: Providers | None,
    routes: Collection[str],
) -> Iterator[Problem]:
    """Yield countries without telephone numbers, and a judge or providers that do not exist.

    `providers` is None where they cannot be read.
    """
    judge = review.judge
    if providers is not None:
        if judge is not None and judge not in routes:
            _, slash, model = judge.partition("/")
            if slash and model:
                problem = target_problem(judge, providers)
            else:
                problem = f"{judge!r} is neither a route nor provider/model"
            if problem:
                yield document.problem(("review", "judge"), problem)
        at = ("review", "share_bodies_with")
        yield from sharing_problems(document, at, review.share_bodies_with, providers)
    countries = review.personal_data.countries
    if countries == PersonalData().countries:
        return
    import phonenumbers  # noqa: PLC0415  # its import takes a tenth of a second

    for number, country in enumerate(countries):
        if country not in phonenumbers.SUPPORTED_REGIONS:
            yield document.problem(
                ("review", "personal_data", "countries", number),
                f"{country!r} is no country with telephone numbers of its own",
            )
