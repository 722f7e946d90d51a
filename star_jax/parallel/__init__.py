"""One program on many devices and machines.

mesh.MeshConfig, make_mesh   the mesh, and where weights and batches lie on it
activations                  where activations lie
processes                    several processes as one run
prefetch                     batches on devices ahead of their step
peaks                        peak throughput of accelerators
"""
