"""`datasets:` and `evaluation:` of the config: what runs and requests over HTTP may open."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from providers.base import Secret
from router.config.documents import Document, Problem
from router.config.section import Count, Section
from router.config.server import Server
from router.config.storage import Storage


class Datasets(Section, frozen=True, kw_only=True):
    """Where datasets may come from.

    Attributes:
        roots: folders, and addresses as `s3://bucket/prefix`, below which a request over HTTP may
            name a dataset. Commands may name any.
        max_bytes: the size that a dataset may have, uploaded or downloaded.
        private_addresses: whether `http://` and `https://` datasets may come from addresses that
            are not public (this machine's, this network's).
        hub: where `hf://` datasets come from; else `HF_ENDPOINT`, else `https://huggingface.co`.
        hf_token: lets requests over HTTP read the private and gated datasets of the hub that it
            opens; without it, requests read public ones only. Commands use it too, else the
            `HF_TOKEN` of whoever types them.
    """

    roots: tuple[str, ...] = (".",)
    max_bytes: Count = 1024 * 1024 * 1024
    private_addresses: bool = False
    hub: str = ""
    hf_token: Secret = Secret("")


class Evaluation(Section, frozen=True, kw_only=True):
    """What runs that come over HTTP may open, run and connect to. Commands may name anything.

    Attributes:
        roots: folders below which they may name files: tasks, rubrics, kinds of judges, baselines.
        models: names on the Hugging Face hub, and folders, of models that their metrics may load.
            Loading a model can run code that comes with it.
        hf_metrics: metrics of the Hugging Face hub that they may use, as NAME of `hf:NAME`. Each is
            a program that runs with the server's rights, with the options that the run gives it.
        ray_addresses: what their `execution.address` may be; "" starts Ray on this machine.
        programs: a folder of Python files that administrators' runs may name as `file:` metrics, by
            their path in it. They run with the server's rights, so nothing that the server stores
            may lie there. "" for none.
    """

    roots: tuple[str, ...] = (".",)
    models: tuple[str, ...] = (
        "roberta-large",
        "microsoft/deberta-xlarge-mnli",
        "sentence-transformers/all-MiniLM-L6-v2",
        "sentence-transformers/all-mpnet-base-v2",
    )
    # Those whose options open nothing and name no other model.
    hf_metrics: tuple[str, ...] = (
        "accuracy",
        "bleu",
        "cer",
        "chrf",
        "exact_match",
        "f1",
        "google_bleu",
        "mae",
        "matthews_correlation",
        "meteor",
        "mse",
        "pearsonr",
        "precision",
        "recall",
        "rouge",
        "sacrebleu",
        "spearmanr",
        "squad",
        "squad_v2",
        "ter",
        "wer",
    )
    ray_addresses: tuple[str, ...] = ("",)
    programs: str = ""


def evaluation_problems(
    document: Document, evaluation: Evaluation, server: Server, storage: Storage
) -> Iterator[Problem]:
    """Yield why the folder for programs would let others run theirs, or those in it."""
    if not evaluation.programs:
        return
    place = ("evaluation", "programs")
    if server.allow_anonymous:
        yield document.problem(
            place, "anybody could start these programs, because server.allow_anonymous is true"
        )
    programs = Path(evaluation.programs).resolve()
    stored = {"storage.artifacts": storage.artifacts}
    if not storage.is_postgres:
        stored["storage.database"] = str(storage.sqlite_path().parent)
    for key, folder in stored.items():
        if "://" in folder:
            continue
        # The server writes artifacts below their folder, but no other file beside its database.
        place_of = Path(folder).resolve()
        if place_of.is_relative_to(programs) or (
            key == "storage.artifacts" and programs.is_relative_to(place_of)
        ):
            yield document.problem(
                place, f"must not have what the server stores in it, or lie there ({key})"
            )


def with_hub(datasets: Datasets, environ: Mapping[str, str]) -> Datasets:
    """Return the section with the address of the hub."""
    hub = datasets.hub or environ.get("HF_ENDPOINT") or "https://huggingface.co"
    return msgspec.structs.replace(datasets, hub=hub.rstrip("/"))
