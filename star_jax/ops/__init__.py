"""Array operations that the networks are built from. Each is one function, which picks the form for the device.

attention.dot_product_attention       attention, with a choice of kernels
convolution.convolve_frames ...       the forms of a convolution
group_norm, geglu, frames_attention   norms, gates, attention along frames
pixels                                uint8 and float in [-1, 1], bilinear enlargement
remat                                 activations that the backward pass recomputes
flops                                 floating-point operations of a traced program
"""
