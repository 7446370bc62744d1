"""`prices:` of the config: what models cost."""

from __future__ import annotations

from providers.base import NotNegative
from router.config.section import Count, Section


class Rate(Section, frozen=True, kw_only=True):
    """US dollars per million tokens.

    Attributes:
        input: per million prompt tokens.
        output: per million completion tokens.
        cached_input: per million prompt tokens that the host had in its cache; None for `input`.
        cache_write: per million prompt tokens that the host put into its cache; None for `input`.
    """

    input: NotNegative
    output: NotNegative
    cached_input: NotNegative | None = None
    cache_write: NotNegative | None = None


class LongRate(Rate, frozen=True, kw_only=True):
    """What a call costs, all of it, when its prompt is long.

    Attributes:
        above: with more prompt tokens than this.
    """

    above: Count


class Price(Rate, frozen=True, kw_only=True):
    """What a model costs.

    Attributes:
        long: for long prompts; None when length makes no difference.
    """

    long: LongRate | None = None
