"""Layout of a prepared dataset on disk: a manifest at its root, and its splits."""

MANIFEST = "manifest.json"
SPLITS = ("train", "validation")


def root_and_split(location: str) -> tuple[str, str]:
    """The folder of a prepared dataset, and the split that a location names (`folder/validation`)."""
    location = location.rstrip("/")
    folder, _, name = location.rpartition("/")
    return (folder or ".", name) if name in SPLITS else (location, "train")
