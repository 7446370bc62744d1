"""Gives handlers the process's parts: they have a parameter `services: Injected`."""

from __future__ import annotations

from litestar.di import NamedDependency

from router.services import Services

Injected = NamedDependency[Services]
