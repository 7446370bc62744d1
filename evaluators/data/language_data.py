"""WordNet and punkt's sentence data in the user's data folder: copied there, never downloaded.

    install("wordnet", None)       # copies Debian's files, and returns their folder
    wordnet()                      # that folder, None before it is installed

`evalrouter data install` is this; only the metric meteor uses it. The files lie as in NLTK's own
data folder, so NLTK reads them too when it is shown `evalrouter/nltk_data`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from providers.errors import InputError, MissingExtraError

Name = Literal["wordnet", "punkt"]

_PARTS = ("adj", "adv", "noun", "verb")
_WORDNET = (
    *(f"{kind}.{part}" for kind in ("data", "index") for part in _PARTS),
    *(f"{part}.exc" for part in _PARTS),
    "index.sense",
)
_PUNKT = ("abbrev_types.txt", "collocations.tab", "ortho_context.tab", "sent_starters.txt")

_FOLDERS = {
    "wordnet": Path("nltk_data", "corpora", "wordnet"),
    "punkt": Path("nltk_data", "tokenizers", "punkt_tab", "english"),
}

# Where Debian's packages wordnet-base and wordnet-sense-index put their files.
DEBIAN = Path("/usr/share/wordnet")

# Debian leaves this file out. Its format (number, file name, part of speech from 1 to 5) and its 45
# lines are described in WordNet's manual page lexnames(5).
_LEXNAMES = """
    adj.all adj.pert adv.all
    noun.Tops noun.act noun.animal noun.artifact noun.attribute
    noun.body noun.cognition noun.communication noun.event noun.feeling
    noun.food noun.group noun.location noun.motive noun.object
    noun.person noun.phenomenon noun.plant noun.possession noun.process
    noun.quantity noun.relation noun.shape noun.state noun.substance
    noun.time verb.body verb.change verb.cognition verb.communication
    verb.competition verb.consumption verb.contact verb.creation verb.emotion
    verb.motion verb.perception verb.possession verb.social verb.stative
    verb.weather adj.ppl
"""
_POS = {"noun": 1, "verb": 2, "adj": 3, "adv": 4}


def folder(environ: Mapping[str, str] | None = None) -> Path:
    """Return the user's data folder for evalrouter, by the XDG base directory specification."""
    data_home = (os.environ if environ is None else environ).get("XDG_DATA_HOME", "")
    home = Path(data_home) if Path(data_home).is_absolute() else Path.home() / ".local" / "share"
    return home / "evalrouter"


def install(name: Name, source: Path | None, *, to: Path | None = None) -> Path:
    """Copy the files into the user's data folder, replacing those of an earlier copy.

    Args:
        name: the data to install.
        source: the folder that has the files, or one above it; for WordNet, None means where
            Debian puts them, and for punkt, where NLTK looks for its own data.
        to: the data folder; the user's when None.

    Raises:
        InputError: no folder has all files, or they cannot be copied; nothing has changed.
    """
    files = _WORDNET if name == "wordnet" else _PUNKT
    complete = _find(files, _candidates(name) if source is None else [source])
    if complete is None:
        raise InputError(_missing_message(name, files, source))
    target = (to or folder()) / _FOLDERS[name]
    fresh = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        fresh.mkdir(parents=True)
        for file in files:
            # Contents, not links: NLTK refuses links that lead out of the folder.
            shutil.copyfile(complete / file, fresh / file)
        if name == "wordnet":
            (fresh / "lexnames").write_text(_lexnames(), encoding="ascii")
        shutil.rmtree(target, ignore_errors=True)
        fresh.rename(target)
    except OSError as error:
        raise InputError(f"{error.filename}: {error.strerror}") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return target


def _candidates(name: Name) -> list[Path]:
    if name == "wordnet":
        return [DEBIAN]
    try:
        import nltk  # noqa: PLC0415  # an extra
    except ImportError:
        raise MissingExtraError("punkt", "metrics") from None
    return [Path(root) / "tokenizers" / "punkt_tab" / "english" for root in nltk.data.path]


def _find(files: tuple[str, ...], folders: list[Path]) -> Path | None:
    for root in folders:
        beneath = (path.parent for path in sorted(root.rglob(files[0])))
        for candidate in (root, *beneath) if root.is_dir() else ():
            # Punkt has a folder for each language; METEOR is made for English.
            if files is _PUNKT and candidate.name != "english":
                continue
            if all((candidate / name).is_file() for name in files):
                return candidate
    return None


def _missing_message(name: Name, files: tuple[str, ...], source: Path | None) -> str:
    if source is not None:
        what = "folder english with" if name == "punkt" else "folder with"
        return f"{source}: there is no {what} {', '.join(files)} in or below it"
    if name == "wordnet":
        return (
            f"{DEBIAN} has no WordNet. On Debian and Ubuntu: apt install wordnet-base "
            "wordnet-sense-index. Elsewhere: name a WordNet 3.0 folder with --from."
        )
    return (
        "NLTK's data has no punkt_tab. Name its folder with --from; "
        "python -m nltk.downloader punkt_tab fetches it."
    )


def _lexnames() -> str:
    lines = []
    for number, name in enumerate(_LEXNAMES.split()):
        part = _POS[name.partition(".")[0]]
        lines.append(f"{number:02d}\t{name}\t{part}\n")
    return "".join(lines)


def wordnet() -> Path | None:
    """Return the installed WordNet's folder, None without one."""
    return _installed("wordnet", _WORDNET)


def punkt() -> Path | None:
    """Return the folder of punkt's installed English data, None without it."""
    return _installed("punkt", _PUNKT)


def _installed(name: Name, files: tuple[str, ...]) -> Path | None:
    path = folder() / _FOLDERS[name]
    return path if all((path / file).is_file() for file in files) else None


def sentences() -> Callable[[str], list[str]]:
    """Return punkt's sentence splitter for English, from the installed data."""
    import nltk  # noqa: PLC0415  # an extra
    from nltk.tokenize.punkt import PunktTokenizer  # noqa: PLC0415

    # NLTK reads only from the folders in this list.
    root = str(folder() / "nltk_data")
    if root not in nltk.data.path:
        nltk.data.path.append(root)
    split: Callable[[str], list[str]] = PunktTokenizer("english").tokenize
    return split
