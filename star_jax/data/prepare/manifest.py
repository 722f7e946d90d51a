"""Layout of a prepared dataset on disk: a manifest at its root, and the splits."""

MANIFEST = "manifest.json"
SPLITS = ("train", "validation")


def root_and_split(location: str) -> tuple[str, str]:
    """Splits a location (`folder/validation`) into a prepared dataset's folder and a split; default `train`."""
    location = location.rstrip("/")
    folder, _, name = location.rpartition("/")
    return (folder or ".", name) if name in SPLITS else (location, "train")
