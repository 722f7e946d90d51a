"""Operations on arrays that the networks are made of; each has one function, which chooses the form for the device.

attention.dot_product_attention       attention, with a choice of kernels
convolution.convolve_frames ...       the forms of a convolution
group_norm, geglu, frames_attention   norms, gates, attention along frames
pixels                                uint8 and float in [-1, 1], bilinear enlargement
remat                                 activations that a backward pass computes again
flops                                 operations of a traced program
"""
