"""Prepared datasets: `write.prepare` makes one, `read.PreparedSource` reads it, `latents` encodes it beforehand.

`plan` says which clip goes into which shard, `shards` writes one, `on_beam` has Apache Beam write them all.
"""
