"""Downloads a file or a folder from the Hugging Face Hub: `hf://owner/repo[@revision]/path`."""

import re
from pathlib import Path, PurePosixPath

from star_jax.convert.folders import PIPELINE_FOLDERS, PIPELINE_INDEX, needed_files
from star_jax.errors import InputError

_SPEC = re.compile(r"hf://(?P<repo>[^/@]+/[^/@]+)(?:@(?P<revision>[^/]+))?(?:/(?P<path>.*))?")


def download(spec: str) -> Path:
    """Downloads the needed files of a file or folder on the Hub into its cache, and returns the local path.

    Raises:
      InputError: the address is wrong, there is no network, the repository or file does not exist, or permission is
        missing.
    """
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError, HTTPError

    match = _SPEC.fullmatch(spec)
    if match is None:
        raise InputError(f"{spec} is not an address on the Hub; write hf://owner/repo[@revision]/path")
    repo, revision, path = match["repo"], match["revision"], (match["path"] or "").strip("/")
    try:
        files = huggingface_hub.HfApi().list_repo_files(repo, revision=revision)
        wanted = [path] if path in files else _folder_files(files, path, spec)
        root = huggingface_hub.snapshot_download(repo, revision=revision, allow_patterns=wanted)
    except (HTTPError, HFValidationError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise InputError(
            f"{spec} cannot be downloaded ({reason}); check its name, the network and `hf auth login`"
        ) from error
    return Path(root) / path


def _folder_files(files: list[str], path: str, spec: str) -> list[str]:
    """The files that `open_sources` would read from a folder, or from a pipeline's folders.

    Raises:
      InputError: there are none.
    """
    folder = PurePosixPath(path or ".")
    folders, wanted = [folder], []
    if (index := str(folder / PIPELINE_INDEX)) in files:
        folders, wanted = [folder / name for name in PIPELINE_FOLDERS], [index]
    for part in folders:
        names = [PurePosixPath(file).name for file in files if PurePosixPath(file).parent == part]
        wanted += [str(part / name) for name in needed_files(names, spec)]
    if wanted in ([], [index]):
        raise InputError(
            f"{spec}: the repository has no such file or folder with weights; check its list of files"
        )
    return wanted
