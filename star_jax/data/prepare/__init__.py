"""Prepared datasets: `write.prepare` makes one, `read.PreparedSource` reads it, `latents` encodes it beforehand."""
