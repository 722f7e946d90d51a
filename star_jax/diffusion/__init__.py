"""The mathematics of diffusion, without any network.

schedule.NoiseSchedule, sampling_grid   noise levels, and those that a sampler visits
process                                 conversions between x_t, v and x_0
solvers.solver_table                    solvers as tables of linear updates
sampler.sample                          one scan runs any table, with guidance and windows
guidance, windows, tiles                branches of guidance; long clips; large frames
losses                                  the velocity loss and the dynamic frequency loss
noise                                   noise keyed by purpose and frame
"""
