"""Where datasets come from: files, folders, the web, S3, the hub; and what is refused."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from hub_server import commit_of, hub
from servers import s3_server

from providers.errors import BodyTooLargeError, DatasetError, NotFoundError
from router.config.evaluation import Datasets
from router.config.schema import Config
from router.config.storage import Storage
from router.datasets.artifacts import S3Artifacts
from router.datasets.huggingface import HubName, choose_files, parse_hub
from router.datasets.sources import fetched, is_public, without_secrets

parquet = pytest.importorskip("pyarrow.parquet", reason="the parquet extra is not installed")
pa = pytest.importorskip("pyarrow")


def table(*rows: dict) -> bytes:
    file = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(list(rows)), file)
    return file.getvalue()


ONE, TWO, THREE = ({"input": f"ask {n}", "reference": f"{n}"} for n in "123")
REPOSITORIES = {
    "org/single": {"main": {"README.md": b"x", "data/test-00000-of-00001.parquet": table(ONE)}},
    "org/splits": {
        "main": {
            "data/train-00000-of-00002.parquet": table(ONE),
            "data/train-00001-of-00002.parquet": table(TWO),
            "data/test-00000-of-00001.parquet": table(THREE),
        },
        "old": {"data/test-00000-of-00001.parquet": table(TWO)},
    },
    "org/configs": {
        "main": {"en/a.parquet": table(ONE), "en/b.parquet": table(TWO), "de.parquet": table(THREE)}
    },
    "org/converted": {
        "main": {"data.csv": b"input\nx\n"},
        "refs/convert/parquet": {"default/train/0000.parquet": table(ONE)},
    },
    "org/none": {"main": {"data.csv": b"input\nx\n"}, "refs/convert/parquet": {}},
}
CARDS = {
    "org/configs": {
        "configs": [
            {"config_name": "en", "data_files": [{"split": "all", "path": ["en/*.parquet"]}]},
            {"config_name": "de", "data_files": [{"split": "all", "path": "de.parquet"}]},
        ]
    }
}
CSV = b"input,reference\nx,y\n"
FILES = {
    "/news.csv": (200, {}, CSV),
    "/moved.csv": (302, {"location": "/news.csv"}, b""),
    "/round.csv": (302, {"location": "/round.csv"}, b""),
    "/file.csv": (302, {"location": "file:///etc/passwd"}, b""),
    "/large.csv": (200, {"content-length": "10000001"}, b""),
    "/endless.csv": (200, {"content-length": "6000000"}, b"x" * 6_000_000),
    "/gone.csv": (404, {}, b""),
}


@pytest.fixture(scope="module")
def url():
    with hub(REPOSITORIES, cards=CARDS, files=FILES) as base:
        yield base


@pytest.fixture
def config(url):
    return Config(datasets=Datasets(hub=url, private_addresses=True, max_bytes=5_000_000))


async def rows(named: str, config: Config) -> tuple[list[dict], str]:
    from evaluators.data.dataset import open_dataset

    async with fetched(named, base=Path(), config=config, over_http=False) as source:
        dataset = open_dataset(source.path, needs_prompt=False)
        return [row.fields for row in dataset.rows()], source.address


# The hub


@pytest.mark.parametrize(
    ("named", "expected", "revision"),
    [
        ("hf://org/single", [ONE], "main"),
        ("hf://org/single?split=test", [ONE], "main"),
        ("hf://org/splits?split=train", [ONE, TWO], "main"),
        ("hf://org/splits?split=test", [THREE], "main"),
        ("hf://org/splits?split=test&revision=old", [TWO], "old"),
        ("hf://org/configs?config=en", [ONE, TWO], "main"),
        ("hf://org/configs?config=de&split=all", [THREE], "main"),
        ("hf://org/converted", [ONE], "refs/convert/parquet"),
    ],
)
async def test_the_hub(config, named, expected, revision):
    lines, address = await rows(named, config)
    assert lines == expected
    # Nothing is left open: asked again, it is the same commit's.
    assert parse_hub(address).revision == commit_of(revision)


async def test_where_a_hubs_dataset_came_from_is_known(config):
    named = "hf://org/splits?split=train"
    async with fetched(named, base=Path(), config=config, over_http=False) as source:
        assert source.name == "splits-train"
        assert source.provenance == {"hub": config.datasets.hub, "commit": commit_of("main")}


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("hf://org/missing", "there is no such dataset on http://127.0.0.1"),
        ("hf://org/gated", "is gated; ask for access on the hub and set HF_TOKEN"),
        ("hf://org/single?revision=v9", "has no such revision"),
        ("hf://org/splits", r"has several splits; add split=... \(train, test\)"),
        ("hf://org/splits?split=tset", "has no split 'tset'. Did you mean 'test'?"),
        ("hf://org/configs", r"has several configs; add config=... \(en, de\)"),
        ("hf://org/configs?config=fr", "has no config 'fr'"),
        ("hf://org/none", "has no parquet files; download it and give its files by path"),
        ("hf://org/single?splits=a", "unknown 'splits'. Did you mean 'split'?"),
        ("hf://a/b/c", "must be of the form hf://org/name"),
        ("hf://../etc", "must be of the form hf://org/name"),
    ],
)
async def test_what_the_hub_has_not(config, named, message):
    with pytest.raises(DatasetError, match=message):
        await rows(named, config)


async def test_the_hub_without_a_network():
    config = Config(datasets=Datasets(hub="http://127.0.0.1:9"))
    with pytest.raises(DatasetError, match=r"http://127.0.0.1:9 cannot be reached .* give a file"):
        await rows("hf://org/single", config)


async def test_a_dataset_of_the_hub_that_is_too_large(url):
    config = Config(datasets=Datasets(hub=url, max_bytes=100))
    with pytest.raises(DatasetError, match=r"more than datasets.max_bytes \(100\)"):
        await rows("hf://org/single", config)


def test_files_by_their_names():
    files = ["v1/test-00000-of-00001.parquet", "v2/test.parquet", "v2/train/0000.parquet"]
    name = HubName(repository="a/b", config="v2", split="train")
    assert choose_files(name, files, [])[1] == ["v2/train/0000.parquet"]
    assert choose_files(HubName(repository="a/b", config="v1"), files, [])[0].split == "test"


# The web


async def test_the_web(config, url):
    assert await rows(f"{url}/news.csv", config) == ([{"input": "x", "reference": "y"}],
                                                     f"{url}/news.csv")  # fmt: skip
    assert (await rows(f"{url}/moved.csv?token=hunter2", config))[1] == f"{url}/moved.csv"


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("/gone.csv", DatasetError, "the host answered 404"),
        ("/round.csv", DatasetError, "more than 5 redirections"),
        ("/file.csv", DatasetError, "not an address of the form https://host/path"),
        ("/large.csv", BodyTooLargeError, r"larger than 5000000 bytes \(datasets.max_bytes\)"),
        ("/endless.csv", BodyTooLargeError, r"larger than 5000000 bytes \(datasets.max_bytes\)"),
        ("/news", DatasetError, "its name must end in one of .jsonl"),
        ("/news.exe", DatasetError, "its name must end in one of .jsonl"),
    ],
)
async def test_what_the_web_has_not(config, url, path, error, message):
    with pytest.raises(error, match=message):
        await rows(url + path, config)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0"])
async def test_private_addresses_are_refused(url, host):
    port = url.rpartition(":")[2]
    with pytest.raises(DatasetError, match="is not a public address; to fetch"):
        await rows(f"http://{host}:{port}/news.csv", Config())


def test_addresses_that_are_not_public():
    for address in ("8.8.8.8", "2606:4700::1111"):
        assert is_public(address)
    for address in (
        "10.0.0.1", "172.16.3.4", "192.168.1.1", "169.254.169.254", "127.8.8.8", "0.0.0.0",
        "100.64.0.1", "224.0.0.1", "::1", "fe80::1%eth0", "fd00::1", "::ffff:10.0.0.1",
        "64:ff9b::a00:1", "2002:a00:1::",
    ):  # fmt: skip
        assert not is_public(address), address


def test_secrets_of_a_url_are_not_kept():
    assert without_secrets("https://me:pw@host:81/a.csv?sig=x#y") == "https://host:81/a.csv"


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("http://[x/a.csv?secret", r"http://\.\.\.: not an address: Invalid IPv6 URL"),
        ("http://h:99999/a.csv", "Port out of range"),
        (f"http://{'a' * 300}.com/x.csv", "there is no host"),
        ("hf://a--b/c", "Cannot have -- or .. in repo_id"),
        ("a\0b.csv", "embedded null byte"),
        ("x" * 5000 + ".csv", "x…': File name too long"),
        ("/dev/zero", "is not a regular file"),
    ],
)
async def test_names_that_cannot_be(url, named, message):
    with pytest.raises(DatasetError, match=message):
        await rows(named, Config(datasets=Datasets(hub=url)))


async def test_an_unknown_scheme():
    with pytest.raises(DatasetError, match=r"cannot fetch ftp://\. Known: hf, http, https, s3\."):
        await rows("ftp://host/a.csv", Config())


# S3


async def test_s3():
    with s3_server("datasets-of-tests") as s3:
        config = Config(storage=Storage(s3=s3), datasets=Datasets(max_bytes=5000))

        async def chunks(body: bytes):
            yield body

        artifacts = S3Artifacts("datasets-of-tests", "", s3)
        await artifacts.put("a/news.csv", chunks(CSV))
        strange = S3Artifacts("datasets-of-tests", "", s3, plain_keys=False)
        await strange.put("a b/été.csv", chunks(CSV))
        assert len((await rows("s3://datasets-of-tests/a b/été.csv", config))[0]) == 1
        await artifacts.put("a/large.jsonl", chunks(json.dumps(ONE).encode() * 1000))
        named = "s3://datasets-of-tests/a/news.csv"
        assert await rows(named, config) == ([{"input": "x", "reference": "y"}], named)
        with pytest.raises(NotFoundError, match=r"no s3://datasets-of-tests/a/gone\.csv"):
            await rows("s3://datasets-of-tests/a/gone.csv", config)
        with pytest.raises(BodyTooLargeError, match="larger than 5000 bytes"):
            await rows("s3://datasets-of-tests/a/large.jsonl", config)
