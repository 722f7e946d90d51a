"""Prepared datasets: `write.prepare` writes one, and `read.PreparedSource` reads it.

`plan` assigns clips to shards, `shards` writes one shard, `latents` encodes clips as latents, and `on_beam` has
Apache Beam write all shards.
"""
