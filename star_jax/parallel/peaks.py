"""Peak matrix throughput of accelerators, the reference for MFU (model FLOPs utilisation)."""

import jax

# Dense bfloat16 TFLOP/s of one JAX device, from the makers' data sheets. A v4 or v5p device is a chip (megacore).
# H100 and H200 are the SXM models without sparsity. A long matrix product sustains less (about 790 TFLOP/s on an
# H200), so compare MFU only where the same peak was used.
PEAK_TFLOPS = {
    "NVIDIA B200": 2250.0,
    "NVIDIA H200": 989.5,
    "NVIDIA H200 NVL": 835.5,
    "NVIDIA H100 PCIe": 756.0,
    "NVIDIA H100 NVL": 835.5,
    "NVIDIA H100": 989.5,
    "NVIDIA GH200": 989.5,
    "NVIDIA A100": 312.0,
    "NVIDIA L40S": 362.0,
    "NVIDIA L4": 121.0,
    "NVIDIA A10G": 70.0,
    "NVIDIA GeForce RTX 4090": 165.2,
    "NVIDIA GeForce RTX 3090": 71.0,
    "Tesla V100": 125.0,  # float16
    "TPU v2": 22.5,
    "TPU v3": 61.5,
    "TPU v4 lite": 138.0,
    "TPU v4": 275.0,
    "TPU v5 lite": 197.0,
    "TPU v5e": 197.0,
    "TPU v5p": 459.0,
    "TPU v5": 459.0,
    "TPU v6 lite": 918.0,
    "TPU v6e": 918.0,
    "TPU7x": 1153.5,  # a device is one of a chip's two cores
}


def peak_tflops(device_kind: str) -> float | None:
    """Peak of one device in TFLOP/s, from the longest name in the table that `device_kind` starts with.

    None if no name matches (as for every CPU); there is no MFU then unless a peak is given.
    """
    matches = [name for name in PEAK_TFLOPS if device_kind.startswith(name)]
    return PEAK_TFLOPS[max(matches, key=len)] if matches else None


def device_peak_tflops(override: float | None = None) -> float | None:
    """Peak of this process's first device in TFLOP/s, or `override` if given."""
    return override if override is not None else peak_tflops(jax.devices()[0].device_kind)


def mfu(flops_per_second: float, *, num_devices: int = 1, device_peak: float | None = None) -> float | None:
    """Model FLOPs utilisation of `num_devices` devices, from 0 to 1; None if the peak is not known.

    Args:
      flops_per_second: operations of the model per second on all devices together, without recomputation.
      num_devices: number of devices that share the work.
      device_peak: TFLOP/s of one device; by default that of this process's first device.
    """
    peak = device_peak_tflops(device_peak)
    return None if peak is None else flops_per_second / (1e12 * peak * num_devices)
