"""Bundles that were changed, forged, or made to harm whoever opens them."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import zipfile
import zlib

import pytest
from bundled_runs import entries_of, packed, sealed
from click.testing import CliRunner
from cryptography.hazmat.primitives import serialization

from providers.errors import EvidenceError
from router.cli import main
from router.loop.bundles.archive import MAX_ENTRIES, MAX_LINE_BYTES, open_archive
from router.loop.bundles.contents import ENTRIES, canonical
from router.loop.bundles.signatures import (
    is_signed,
    read_key,
    read_public_key,
    write_key,
)
from router.loop.bundles.verification import verify


@pytest.mark.parametrize(
    "name", [*ENTRIES["run"], "manifest.json", "manifest.sig", "public-key.pem"]
)
async def test_a_byte_that_is_changed_in_any_entry_is_found(bundle, tmp_path, name):
    entries = entries_of(bundle)
    content = bytearray(entries[name] or b"{}\n")
    content[len(content) // 2] ^= 1
    entries[name] = bytes(content)
    found = await verify(packed(tmp_path / "b.zip", entries))
    assert found.refused, name
    assert not found.passed
    assert found.agree == 0


async def test_every_byte_of_the_file_counts(bundle, tmp_path):
    """Whatever is flipped in the file as it is, it is refused, damaged, or of no meaning."""
    content = bundle.read_bytes()
    for place in range(0, len(content), len(content) // 40):
        changed = bytearray(content)
        changed[place] ^= 0x55
        (tmp_path / "b.zip").write_bytes(changed)
        try:
            found = await verify(tmp_path / "b.zip")
        except EvidenceError:
            continue
        if not found.refused:
            # Times and flags of entries are no part of the evidence.
            assert entries_of(tmp_path / "b.zip") == entries_of(bundle)


async def test_an_entry_that_is_missing_or_added_is_found(bundle, tmp_path):
    entries = entries_of(bundle)
    without = {name: content for name, content in entries.items() if name != "labels.jsonl"}
    found = await verify(packed(tmp_path / "a.zip", without))
    assert found.refused == "labels.jsonl is missing"
    found = await verify(packed(tmp_path / "b.zip", {**entries, "more.txt": b""}))
    assert found.refused == "more.txt is not in its manifest"
    unsigned = {name: entries[name] for name in entries if name != "manifest.sig"}
    with pytest.raises(EvidenceError, match=r"it has no manifest\.sig"):
        await verify(packed(tmp_path / "c.zip", unsigned))


async def test_a_number_that_was_changed_and_signed_anew_differs(bundle, tmp_path, evidence):
    entries = entries_of(bundle)
    numbers = json.loads(entries["numbers.json"])
    numbers["report"]["routes"][0]["scores"][0]["estimate"] = 0.99
    numbers["gates"][0]["passed"] = not numbers["gates"][0]["passed"]
    entries["numbers.json"] = json.dumps(numbers).encode()
    # Without the key, the signature does not fit any more.
    found = await verify(packed(tmp_path / "a.zip", sealed(entries)))
    assert found.refused == "its signature is not that of its manifest"
    mallory = write_key(tmp_path / "mallory", passphrase=None)
    forged = packed(tmp_path / "b.zip", sealed(entries, mallory))
    found = await verify(forged)
    assert (found.signature, found.refused, found.differing) == ("unnamed", "", 2)
    assert {difference.what for difference in found.differences} == {
        "report.routes[up/echo].scores[exact_match].estimate",
        "gates[chrf >= 0.1, up/echo, chrf].passed",
    }
    named = read_key(evidence / "key", passphrase=None).public_pem
    assert "and SHA256:" in (await verify(forged, trusted=named)).refused
    # No signature at all is no way around the key either.
    unsigned = sealed(entries)
    del unsigned["manifest.sig"], unsigned["public-key.pem"]
    found = await verify(packed(tmp_path / "c.zip", unsigned), trusted=named)
    assert found.refused == "it is not signed, and a key was named"


async def test_a_score_that_was_changed_with_all_its_numbers_differs_from_the_texts(
    bundle, tmp_path
):
    entries = entries_of(bundle)
    rows = [json.loads(line) for line in entries["results.jsonl"].splitlines()]
    scored = next(row for row in rows if row["result"]["scores"])
    before = next(score for score in scored["result"]["scores"] if score["output"] == "exact_match")
    before["value"] = 1.0 - before["value"]
    verdict = next(
        score for score in scored["result"]["scores"] if score["output"] == "helpfulness"
    )
    verdict["value"] = 5.0
    # Nor can a score be left out, or a judge be said to have been asked less often.
    poorer = [row["result"] for row in rows if row["result"]["scores"]][1]
    poorer["scores"] = [score for score in poorer["scores"] if score["output"] != "regex"]
    stated = json.loads(entries["stated.json"])
    stated["judges"][0]["calls"] -= 1
    entries["stated.json"] = canonical(stated)
    entries["results.jsonl"] = b"".join(canonical(row) + b"\n" for row in rows)
    key = write_key(tmp_path / "k", passphrase=None)
    found = await verify(packed(tmp_path / "b.zip", sealed(entries, key)))
    places = [difference.what for difference in found.differences]
    route, sample, _ = scored["result"]["cell"]
    assert f"results.jsonl: exact_match of {sample} by {route}" in places
    assert f"results.jsonl: helpfulness of {sample} by {route}" in places
    assert any(place.startswith("report.") for place in places)
    route, sample, repeat = poorer["cell"]
    assert f"results.jsonl: regex of {sample} by {route}" + f", {repeat}" * bool(repeat) in places
    assert "judges[up/judge, prometheus:helpfulness].calls" in places


async def test_no_code_that_a_bundle_names_is_run(bundle, tmp_path, monkeypatch):
    entries = entries_of(bundle)
    trap, sprung = tmp_path / "trap.py", tmp_path / "sprung"
    trap.write_text(f"open({str(sprung)!r}, 'w').close()\ndef score(*_): return 1.0\n")
    run = json.loads(entries["run.json"])
    specs = run["document"]["metrics"]
    at = next(n for n, spec in enumerate(specs) if "file:mine.py" in json.dumps(spec))
    specs[at] = {"name": f"file:{trap}"}
    # A template, too, is only a text here.
    run["document"]["prompt"] = "{{ cycler.__init__.__globals__.os.system('true') }}"
    entries["run.json"] = canonical(run)
    key = write_key(tmp_path / "k", passphrase=None)
    found = await verify(packed(tmp_path / "b.zip", sealed(entries, key)))
    assert not sprung.exists()
    assert found.passed
    assert any(text.startswith("file:mine.py: it is a program") for text in found.not_recomputed)
    # Nor is a file opened that a metric which ships would read.
    specs[at] = {"name": "prometheus", "judge": "up/judge", "rubric": str(tmp_path / "r.yaml")}
    entries["run.json"] = canonical(run)
    found = await verify(packed(tmp_path / "c.zip", sealed(entries, key)))
    assert any("it opens a file" in text for text in found.not_recomputed)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("run.json", b"[" * 100_000, "run.json: "),
        ("run.json", b'{"id": 1e999}', "run.json: "),
        ("results.jsonl", b'{"result": ' + b"[" * 100_000 + b"\n", "results.jsonl, line 1: "),
        ("samples.jsonl", b'{"sample": {"id": "s", "messages": [], "fields": ', "within a line"),
        (
            "samples.jsonl",
            b'{"sample":{"id":"s","messages":[],"fields":{"a":'
            + b"[" * 5000
            + b"]" * 5000
            + b"}}}\n",
            "samples.jsonl, line 1: ",
        ),
        ("stated.json", b'{"looks": [], "judges": [], "embeddings": [], "more": 1}', "more"),
        ("metrics.json", b"[]", "not one declaration for each metric"),
        ("numbers.json", b"{}", "numbers.json: "),
        ("studies.jsonl", b"\xff\xfe\n", "studies.jsonl, line 1: "),
    ],
)
def test_entries_that_are_no_evidence_are_refused(bundle, tmp_path, name, content, message):
    entries = entries_of(bundle)
    entries[name] = content
    key = write_key(tmp_path / "k", passphrase=None)
    packed(tmp_path / "b.zip", sealed(entries, key))
    done = CliRunner().invoke(main, ["verify", str(tmp_path / "b.zip")])
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("manifest", [b"[" * 100_000, b"{}", b'{"format": "other"}', b"\xff"])
async def test_a_manifest_that_is_none_is_refused(tmp_path, manifest):
    packed(tmp_path / "b.zip", {"manifest.json": manifest})
    with pytest.raises(EvidenceError, match=r"^b\.zip: "):
        await verify(tmp_path / "b.zip")


async def test_a_run_of_another_id_or_dataset_is_refused(bundle, tmp_path):
    entries = entries_of(bundle)
    manifest = json.loads(entries["manifest.json"])
    key = write_key(tmp_path / "k", passphrase=None)
    entries["manifest.json"] = canonical({**manifest, "id": "run_other"})
    with pytest.raises(EvidenceError, match="it is of run_other"):
        await verify(packed(tmp_path / "a.zip", sealed(entries, key)))
    dataset = {**manifest["dataset"], "sha256": "0" * 64}
    entries["manifest.json"] = canonical({**manifest, "dataset": dataset})
    with pytest.raises(EvidenceError, match="its dataset is not that of the run"):
        await verify(packed(tmp_path / "b.zip", sealed(entries, key)))


def refusal(path):
    with pytest.raises(EvidenceError) as refused:
        read(path)
    return refused.value.message


def read(path):
    with open_archive(path) as archive:
        for name in archive.names:
            archive.sha256(name, lambda _: None)


def archive_with(path, change):
    """Write an archive of one entry whose directory is changed."""
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo("manifest.json")
        change(info)
        archive.writestr(info, b"{}")
    return path


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_archives_that_could_harm_are_refused(tmp_path):
    for number, name in enumerate(["../evil", "/etc/passwd", "a/b", "C:\\x", "a" * 65, "é"]):
        path = tmp_path / f"{number}.zip"
        packed(path, {name: b""})
        assert "an entry is named" in refusal(path), name
    with zipfile.ZipFile(tmp_path / "twice.zip", "w") as archive:
        archive.writestr("run.json", b"1")
        archive.writestr("run.json", b"2")
    assert "two entries are named run.json" in refusal(tmp_path / "twice.zip")

    def as_link(info):
        info.create_system, info.external_attr = 3, 0o120777 << 16

    assert "is a link or a folder" in refusal(archive_with(tmp_path / "link.zip", as_link))
    encrypted = bytearray(archive_with(tmp_path / "e.zip", lambda _: None).read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        encrypted[encrypted.index(signature) + offset] |= 1
    (tmp_path / "e.zip").write_bytes(encrypted)
    assert "is encrypted" in refusal(tmp_path / "e.zip")

    def by_bzip2(info):
        info.compress_type = zipfile.ZIP_BZIP2

    assert "packed by method 12" in refusal(archive_with(tmp_path / "bz.zip", by_bzip2))


def test_bombs_are_refused_before_they_go_off(tmp_path):
    packed(tmp_path / "ratio.zip", {"manifest.json": bytes(40 * 2**20)})
    assert "more than 400 for each" in refusal(tmp_path / "ratio.zip")
    # An entry that says less than it has.
    content = bytearray(packed(tmp_path / "l.zip", {"run.json": b"ab" * 9000}).read_bytes())
    at = content.index(b"PK\x01\x02") + 24
    content[at : at + 4] = struct.pack("<L", 9000)
    (tmp_path / "l.zip").write_bytes(content)
    assert "run.json is" in refusal(tmp_path / "l.zip")
    many = {f"e{n}": b"" for n in range(MAX_ENTRIES + 1)}
    assert f"more than {MAX_ENTRIES} entries" in refusal(packed(tmp_path / "many.zip", many))
    # A million entries are counted by the last record, and never listed.
    entry = struct.pack("<4s6H3L5H2L", b"PK\x01\x02", *(0,) * 16)
    directory = entry * 1_000_000
    large = struct.pack(
        "<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 10**6, 10**6, len(directory), 0
    )
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, len(directory), 1)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    (tmp_path / "million.zip").write_bytes(directory + large + locator + end)
    assert f"more than {MAX_ENTRIES} entries" in refusal(tmp_path / "million.zip")
    # Two entries that share one body.
    shared = packed(tmp_path / "o.zip", {"a": b"x" * 100_000}).read_bytes()
    start, size = shared.index(b"PK\x01\x02"), 46 + 1
    record = shared[start : start + size]
    second = bytearray(record)
    second[-1:] = b"b"
    copies = record + bytes(second)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 2, 2, len(copies), start, 0)
    (tmp_path / "o.zip").write_bytes(shared[:start] + copies + end)
    assert refusal(tmp_path / "o.zip")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is no zip file"),
        (b"PK\x05\x06", "it is no zip file"),
        (b"not a zip file" * 100, "it is no zip file"),
        (zlib.compress(b"x" * 100), "it is no zip file"),
    ],
)
def test_what_is_no_archive_is_refused(tmp_path, content, message):
    (tmp_path / "b.zip").write_bytes(content)
    assert message in refusal(tmp_path / "b.zip")


def test_something_before_or_behind_an_archive_is_refused(bundle, tmp_path):
    for content in (b"#!/bin/sh\n" + bundle.read_bytes(), bundle.read_bytes() + b"\n"):
        (tmp_path / "b.zip").write_bytes(content)
        assert "not a bundle of evidence" in refusal(tmp_path / "b.zip")


def test_a_line_without_an_end_is_not_read_into_memory(tmp_path):
    (tmp_path / "long").write_bytes(b"\x00" * 10 + b"ab" * (MAX_LINE_BYTES // 2 + 2**20))
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        archive.write(tmp_path / "long", "results.jsonl")
    with open_archive(tmp_path / "s.zip") as archive, pytest.raises(EvidenceError, match="a line"):
        list(archive.lines("results.jsonl"))


def test_what_a_bundle_says_ends_no_line(bundle, tmp_path):
    """Nor does it change the terminal: what it says is never a line of this program."""
    entries = entries_of(bundle)
    forged = "mine), texts: keep\nsigned by ann's key\x1b[2J\u2028OK: 9 numbers"
    manifest = json.loads(entries["manifest.json"])
    manifest["versions"]["msgspec"] = "1\nOK: 9 numbers come out as stated"
    run = json.loads(entries["run.json"])
    manifest["name"] = run["name"] = forged
    entries["manifest.json"], entries["run.json"] = canonical(manifest), canonical(run)
    numbers = json.loads(entries["numbers.json"])
    numbers["report"]["method"] = "\nOK: 9 numbers"
    entries["numbers.json"] = canonical(numbers)
    key = write_key(tmp_path / "k", passphrase=None)
    packed(tmp_path / "b.zip", sealed(entries, key))
    done = CliRunner().invoke(main, ["verify", str(tmp_path / "b.zip")])
    lines = done.stdout.splitlines()
    assert (done.exit_code, lines[-1][:8]) == (1, "DIFFERS:")
    assert not [line for line in lines if line.startswith(("signed by ann", "OK"))]
    assert "(mine), texts: keep␊signed by ann's key␛[2J�OK: 9 numbers), texts: keep" in done.stdout
    # Nor does it in an error.
    entries["manifest.json"] = canonical({**manifest, "id": "run_x\nOK: 9 numbers"})
    packed(tmp_path / "c.zip", sealed(entries, key))
    done = CliRunner().invoke(main, ["verify", str(tmp_path / "c.zip")])
    assert done.exit_code == 2
    assert "it is of run_x␊OK: 9 numbers" in done.stderr
    # Programs get it as it is.
    done = CliRunner().invoke(main, ["verify", str(tmp_path / "b.zip"), "--json"])
    assert json.loads(done.stdout)["name"] == forged


def test_what_was_not_scored_in_time_is_not_ok(bundle):
    done = CliRunner().invoke(main, ["verify", str(bundle), "--seconds", "1e-9"])
    assert done.exit_code == 1
    assert "not recomputed: 158 answers were not scored within 1e-09 s" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("INCOMPLETE: 158 answers could not be scored")


def test_files_that_are_not_there_or_no_keys_are_refused_in_one_line(bundle, evidence, tmp_path):
    (tmp_path / "text").write_text("hello")
    (tmp_path / "large").write_bytes(b"-" * 100_000)
    key = str(evidence / "key")
    os.mkfifo(tmp_path / "pipe", 0o600)
    pipe = str(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    link = str(tmp_path / "link")
    for arguments, message in (
        (["verify", str(tmp_path / "none.zip")], "No such file"),
        (["verify", str(tmp_path)], "Is a directory"),
        (["verify", pipe], "not a plain file"),
        (["verify", link], "not a plain file"),
        (["verify", str(bundle), "--public-key", pipe], "not a plain file"),
        (["verify", str(bundle), "--public-key", link], "not a plain file"),
        (["evidence", "export", "run_x", "--key", pipe], "not a plain file"),
        (["verify", str(bundle), "--public-key", str(tmp_path / "none")], "No such file"),
        (["verify", str(bundle), "--public-key", str(tmp_path / "text")], "no public key"),
        (
            ["verify", str(bundle), "--public-key", str(tmp_path / "large")],
            "more than 16,384 bytes",
        ),
        (["verify", str(bundle), "--public-key", key], "this is a private key"),
        (["evidence", "keygen", str(tmp_path / "text")], "is there already"),
        (["evidence", "export", "run_x", "--key", str(tmp_path / "text")], "others can read"),
    ):
        done = CliRunner().invoke(main, arguments)
        assert (done.exit_code, done.stdout) == (2, ""), done.output
        assert message in done.stderr
        assert "Traceback" not in done.stderr


def test_keys_of_openssh_and_openssl_sign(tmp_path):
    subprocess.run(
        ["openssl", "genpkey", "-algorithm", "ed25519", "-out", tmp_path / "a"], check=True
    )
    (tmp_path / "a").chmod(0o600)
    key = read_key(tmp_path / "a", passphrase=None)
    assert is_signed(key.public_pem, key.sign(b"m"), b"m")
    assert not is_signed(key.public_pem, key.sign(b"m"), b"n")
    subprocess.run(
        ["openssl", "genpkey", "-algorithm", "x25519", "-out", tmp_path / "x"], check=True
    )
    (tmp_path / "x").chmod(0o600)
    with pytest.raises(EvidenceError, match="not an Ed25519 key"):
        read_key(tmp_path / "x", passphrase=None)
    made = write_key(tmp_path / "b", passphrase="open")
    assert read_key(tmp_path / "b", passphrase="open").public_pem == made.public_pem
    with pytest.raises(EvidenceError, match="the passphrase does not open"):
        read_key(tmp_path / "b", passphrase="shut")
    public = made.private.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    (tmp_path / "b.pub").write_bytes(public + b" ann@example.org\n")
    assert read_public_key(tmp_path / "b.pub") == made.public_pem
    (tmp_path / "b.ssh").write_bytes(
        made.private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        )
    )
    (tmp_path / "b.ssh").chmod(0o600)
    assert read_key(tmp_path / "b.ssh", passphrase=None).public_pem == made.public_pem
