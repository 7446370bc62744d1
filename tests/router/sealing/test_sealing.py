"""Old requests go into files, and are listed, added up and shown as before."""

from __future__ import annotations

import random

import msgspec
import pytest

from router.sealing.job import DAY_S
from router.store.traffic import TrafficFilter


async def test_x(server):
    live = await server.recorded.page(TrafficFilter(), limit=5000)
    result = await server.sealing.run_once()
    print(result)
    print([msgspec.structs.replace(f, kinds=None) for f in await server.store.sealed_files()])
    again = await server.recorded.page(TrafficFilter(), limit=5000)
    assert again == live
    print(await server.sealing.run_once())
