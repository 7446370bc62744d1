"""Says what a container lacks."""

from __future__ import annotations

from pathlib import Path

from router.config.storage import Storage

# What containers' own layers are made of, and lost with the container.
_LAYERS = ("overlay", "fuse-overlayfs", "aufs")


def missing_volume(storage: Storage) -> list[str]:
    """Return a warning for a `storage.folder` within a container's own layers; else nothing."""
    if not storage.folder or (storage.is_postgres and "://" in storage.artifacts):
        return []
    folder = Path(storage.folder).resolve()
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    if _filesystem_of(folder, mounts) not in _LAYERS:
        return []
    return [
        f"{folder} is no volume: what is stored there (the database, artifacts, the first key) is "
        "lost with this container; mount a volume at it"
    ]


def _filesystem_of(folder: Path, mounts: str) -> str:
    """Return the type of the file system that a folder is in.

    Args:
        folder: an absolute path.
        mounts: the text of `/proc/self/mountinfo`, in which later mounts hide earlier ones.
    """
    nearest, filesystem = Path("/"), ""
    for line in mounts.splitlines():
        place, _, rest = line.partition(" - ")
        mounted = Path(place.split()[4].replace("\\040", " "))
        if folder.is_relative_to(mounted) and mounted.is_relative_to(nearest):
            nearest, filesystem = mounted, rest.split()[0]
    return filesystem
