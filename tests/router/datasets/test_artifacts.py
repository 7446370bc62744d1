"""What any artifact store promises, on a folder and on a real S3 server; then each one's own."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
import tempfile
import textwrap
import threading
from pathlib import Path

import pytest
from servers import s3_server

from providers.base import Secret
from providers.errors import ArtifactError, ConfigError, NotFoundError
from router.config.loading import parse
from router.config.storage import S3
from router.datasets.artifacts import (
    PART,
    Artifact,
    LocalArtifacts,
    file_chunks,
    open_artifacts,
    parse_s3,
    remove_abandoned_folders,
    temporary_folder,
)

ROOT = Path(__file__).parents[3]
BUCKET = "artifacts-of-tests"


@pytest.fixture(scope="module")
def s3():
    with s3_server(BUCKET) as settings:
        yield settings


@pytest.fixture(params=["folder", "s3"])
def artifacts(request, tmp_path, s3):
    if request.param == "folder":
        return open_artifacts(str(tmp_path / "kept"), s3)
    # A prefix for each test, in which the bucket looks empty.
    return open_artifacts(f"s3://{BUCKET}/{tmp_path.name}", s3)


async def of(*parts: bytes):
    for part in parts:
        yield part


async def read(artifacts, key: str) -> bytes:
    return b"".join([chunk async for chunk in artifacts.get(key)])


async def listed(artifacts, prefix: str = "") -> list[Artifact]:
    return [artifact async for artifact in artifacts.list(prefix)]


async def test_what_is_put_is_there(artifacts):
    stored = await artifacts.put("a/b.txt", of(b"hello ", b"", b"world"))
    assert (stored.key, stored.size) == ("a/b.txt", 11)
    assert stored.sha256 == hashlib.sha256(b"hello world").hexdigest()
    assert await read(artifacts, "a/b.txt") == b"hello world"
    assert await artifacts.exists("a/b.txt")
    await artifacts.put("a/b.txt", of(b"other"))
    assert await read(artifacts, "a/b.txt") == b"other"
    await artifacts.put("empty", of())
    assert await read(artifacts, "empty") == b""


async def test_what_is_not_there(artifacts):
    assert not await artifacts.exists("a/b")
    assert await listed(artifacts) == []
    with pytest.raises(NotFoundError, match="there is no a/b in"):
        await read(artifacts, "a/b")
    await artifacts.delete("a/b")


async def test_listing_and_deleting(artifacts):
    for key in ("b/2", "a", "b/10", "bc"):
        await artifacts.put(key, of(key.encode()))
    assert await listed(artifacts) == [
        Artifact("a", 1), Artifact("b/10", 4), Artifact("b/2", 3), Artifact("bc", 2)
    ]  # fmt: skip
    assert [artifact.key for artifact in await listed(artifacts, "b/")] == ["b/10", "b/2"]
    await artifacts.delete("b/2")
    assert [artifact.key for artifact in await listed(artifacts, "b")] == ["b/10", "bc"]


async def test_a_large_file_goes_up_in_parts_and_comes_back_in_chunks(artifacts):
    block = os.urandom(1_000_003)
    stored = await artifacts.put("large", of(*[block] * 20))
    assert stored.size == 20_000_060 > 2 * PART
    digest, largest = hashlib.sha256(), 0
    async for chunk in artifacts.get("large"):
        digest.update(chunk)
        largest = max(largest, len(chunk))
    assert digest.hexdigest() == stored.sha256 == hashlib.sha256(block * 20).hexdigest()
    assert largest <= 1024 * 1024


@pytest.mark.parametrize("size", [PART - 1, PART, PART + 1, 2 * PART])
async def test_sizes_around_a_part(artifacts, size):
    assert (await artifacts.put("x", of(b"x" * size))).size == size
    assert [artifact.size for artifact in await listed(artifacts)] == [size]


async def test_a_file_that_breaks_off_is_not_there(artifacts):
    async def broken():
        for _ in range(10):
            yield b"x" * 1_000_000
        raise ConnectionError("the sender is gone")

    await artifacts.put("kept", of(b"before"))
    for key in ("kept", "new"):
        with pytest.raises(ConnectionError):
            await artifacts.put(key, broken())
    assert await listed(artifacts) == [Artifact("kept", 6)]
    assert await read(artifacts, "kept") == b"before"


async def test_a_put_that_is_cancelled_leaves_nothing(artifacts):
    begun = asyncio.Event()

    async def endless():
        for _ in range(12):
            yield b"x" * 1_000_000
        begun.set()
        await asyncio.sleep(60)
        yield b""

    putting = asyncio.ensure_future(artifacts.put("new", endless()))
    await begun.wait()
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting
    assert await listed(artifacts) == []


async def test_a_file_is_open_until_its_reading_ends_however_often_that_is_cancelled(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    other_end = os.open(path, os.O_RDWR)
    # Closing a file waits for its reading, and would hold up everything.
    rescue = threading.Timer(10, os.close, [other_end])
    rescue.start()
    reading = asyncio.create_task(anext(file_chunks(path)))
    for _ in range(3):
        done, _ = await asyncio.wait({reading}, timeout=0.02)
        assert not done
        reading.cancel()
    rescue.cancel()
    os.close(other_end)
    with pytest.raises(asyncio.CancelledError):
        await reading


@pytest.mark.parametrize("key", ["", "/a", "a/", "../a", "a/../b", ".hidden", "a//b", "ä", "a b"])
async def test_keys_stay_inside(artifacts, key):
    for attempt in (artifacts.put(key, of(b"x")), artifacts.exists(key), read(artifacts, key)):
        with pytest.raises(ArtifactError, match="cannot be an artifact's key"):
            await attempt


# A folder


async def test_nothing_is_left_beside(tmp_path):
    artifacts = LocalArtifacts(tmp_path)
    await artifacts.put("a", of(b"x"))
    with pytest.raises(TypeError):
        await artifacts.put("b", of("text"))
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["a"]
    assert artifacts.path("a") == tmp_path / "a"


def test_a_full_disk(tmp_path):
    """A limit on the size of files refuses as a full disk does, for this process alone."""
    program = textwrap.dedent("""
        import asyncio, resource, sys
        from pathlib import Path
        from providers.errors import ArtifactError
        from router.datasets.artifacts import LocalArtifacts

        async def blocks():
            for _ in range(5):
                yield b"x" * 1_000_000

        async def main():
            artifacts = LocalArtifacts(Path(sys.argv[1]))
            resource.setrlimit(resource.RLIMIT_FSIZE, (2_500_000, 2_500_000))
            try:
                await artifacts.put("large", blocks())
            except ArtifactError as error:
                print(error.message)
            print([one async for one in artifacts.list()])

        asyncio.run(main())
    """)
    folder = tmp_path / "kept"
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    message, there = done.stdout.splitlines()
    assert message.startswith(f"cannot store large in {folder}: no space left (File too large)")
    assert there == "[]"
    assert [path for path in folder.rglob("*") if path.is_file()] == []


# S3


async def test_no_parts_are_left_of_an_upload_that_failed(s3):
    artifacts = open_artifacts(f"s3://{BUCKET}/parts", s3)

    async def broken():
        yield b"x" * (2 * PART)
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await artifacts.put("a", broken())
    uploads = await artifacts._call("list_multipart_uploads", None)
    assert uploads.get("Uploads", []) == []


async def test_a_bucket_that_is_not_there(s3):
    artifacts = open_artifacts("s3://nowhere-at-all", s3)
    with pytest.raises(ArtifactError, match=r"S3 refused put_object at s3://nowhere-at-all/a: .*"):
        await artifacts.put("a", of(b"x"))
    with pytest.raises(ArtifactError, match="NoSuchBucket"):
        await listed(artifacts)


async def test_a_host_that_does_not_answer():
    silent = S3(
        endpoint_url="http://127.0.0.1:9",
        region="us-east-1",
        access_key_id=Secret("a"),
        secret_access_key=Secret("hunter2"),
    )
    artifacts = open_artifacts("s3://bucket-name", silent)
    with pytest.raises(ArtifactError, match=r"127\.0\.0\.1:9") as caught:
        await artifacts.exists("a")
    assert "hunter2" not in caught.value.message


async def test_more_objects_than_one_page_names(s3):
    artifacts = open_artifacts(f"s3://{BUCKET}/many", s3)
    for start in range(0, 1010, 101):
        await asyncio.gather(
            *(artifacts.put(f"{n:04}", of(b"x")) for n in range(start, start + 101))
        )
    keys = [artifact.key for artifact in await listed(artifacts)]
    assert keys == [f"{n:04}" for n in range(1010)]


def test_addresses():
    assert parse_s3("s3://bucket/a/b/") == ("bucket", "a/b")
    for url in ("s3://", "s3://B", "s3://bucket?x=1"):
        with pytest.raises(ConfigError, match="is not of the form"):
            parse_s3(url)
    with pytest.raises(ConfigError, match="neither a folder nor"):
        open_artifacts("gs://bucket", S3())


def test_where_artifacts_are_comes_from_the_config_then_the_environment():
    environ = {
        "S3_BUCKET": "from-the-environment",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9000",
        "AWS_ACCESS_KEY_ID": "AKIA",
        "AWS_SECRET_ACCESS_KEY": "hunter2",
        "AWS_DEFAULT_REGION": "eu-west-1",
    }
    storage = parse("", "t", environ).storage
    assert storage.artifacts == "s3://from-the-environment"
    assert storage.s3 == S3(
        endpoint_url="http://127.0.0.1:9000",
        region="eu-west-1",
        access_key_id=Secret("AKIA"),
        secret_access_key=Secret("hunter2"),
    )
    assert "hunter2" not in repr(storage)
    given = parse("storage: {artifacts: here, s3: {region: us-east-1}}", "t", environ).storage
    assert (given.artifacts, given.s3.region) == ("here", "us-east-1")
    assert parse("", "t", {}).storage.artifacts == "./artifacts"
    with pytest.raises(ConfigError, match=r"storage.artifacts: must be a folder or s3://bucket"):
        parse("storage: {artifacts: 'gs://bucket'}", "t", {})


def test_folders_of_processes_that_were_killed_are_removed(tmp_path, monkeypatch):
    code = (
        "import sys\nfrom router.datasets.artifacts import temporary_folder\n"
        "with temporary_folder() as folder:\n"
        "    (folder / 'texts').write_text('secret')\n"
        "    print(folder, flush=True)\n    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        killed = Path(process.stdout.readline().strip())
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        (tmp_path / "evalrouter-loop-mine").mkdir()
        with temporary_folder() as used:
            remove_abandoned_folders(older_s=-60)
            assert killed.exists()
            assert used.exists()
            process.kill()
            process.wait()
            remove_abandoned_folders()
            assert killed.exists(), "it is too young"
            remove_abandoned_folders(older_s=-60)
            assert not killed.exists()
            assert used.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["evalrouter-loop-mine"]


async def test_what_a_killed_process_was_storing_is_removed_by_the_next_file(tmp_path):
    incoming = tmp_path / ".incoming"
    incoming.mkdir()
    for name in ("old", "new"):
        (incoming / name).write_text("secret")
    os.utime(incoming / "old", (1e9, 1e9))
    (tmp_path / "x").write_text("x")
    await LocalArtifacts(tmp_path).put("a", file_chunks(tmp_path / "x"))
    assert [path.name for path in incoming.iterdir()] == ["new"]
