"""Lets Orbax write to s3://.

Orbax stores arrays with TensorStore, which knows S3, and small files with epath, which knows it, too. Orbax itself
asks in four places whether a path is gs://, and takes anything else for a local one. Those four learn s3:// here; a
bucket of either kind is then treated alike: a checkpoint counts once its commit file is there.
"""

import os
import posixpath
from typing import Any
from urllib.parse import urlsplit

from orbax.checkpoint._src.path import gcs_utils
from orbax.checkpoint._src.serialization import tensorstore_utils

from star_jax.files import BUCKETS

_kvstore_for_gcs = gcs_utils.get_kvstore_for_gcs


def teach_orbax_s3() -> None:
    """Makes Orbax of this process write to s3:// as to gs://."""
    gcs_utils._GCS_PATH_PREFIX = BUCKETS
    gcs_utils.get_kvstore_for_gcs = _kvstore
    tensorstore_utils._use_gcs_driver = lambda directory: directory.startswith(BUCKETS)
    tensorstore_utils._normalize_path = _normalized


def _kvstore(url: str) -> dict[str, Any]:
    """TensorStore's description of a place in a bucket; endpoint and region as AWS's own tools read them."""
    if not url.startswith("s3://"):
        return _kvstore_for_gcs(url)
    parts = urlsplit(url)
    spec = {"driver": "s3", "bucket": parts.netloc, "path": parts.path.lstrip("/")}
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if endpoint:
        spec["endpoint"] = endpoint
        region = region or "us-east-1"  # of a store that is not Amazon's; TensorStore would ask Amazon
    return {**spec, **({"aws_region": region} if region else {})}


def _normalized(path: str) -> str:
    """The path without needless slashes, but for the two of a URL."""
    scheme, separator, rest = path.rpartition("://")
    return f"{scheme}{separator}{posixpath.normpath(rest)}"
