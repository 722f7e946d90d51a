"""Videos made of numbers: `synthetic` for tests and benchmarks, `scenes` to train a small model on."""
