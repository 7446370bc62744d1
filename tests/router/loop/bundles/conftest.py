"""The run whose bundles these tests write and verify."""

from __future__ import annotations

import asyncio

import pytest
from bundled_runs import exported, make_run

from router.loop.bundles.signatures import read_key


@pytest.fixture(scope="session")
def evidence(tmp_path_factory):
    """A folder with the run; see `make_run`."""
    folder = tmp_path_factory.mktemp("evidence")
    make_run(folder)
    return folder


@pytest.fixture(scope="session")
def bundle(evidence):
    """The run's signed bundle, with texts as they are."""
    path = evidence / "bundle.zip"
    key = read_key(evidence / "key", passphrase=None)
    asyncio.run(exported(evidence, path, bodies="keep", key=key))
    return path
