"""One program on many devices and machines.

mesh.MeshConfig, make_mesh   the mesh, and how batches are sharded over it
weights, activations         how weights and activations are sharded
processes, peers             several processes as one run
prefetch                     batches placed on devices ahead of their step
peaks                        peak throughput of accelerators
"""
