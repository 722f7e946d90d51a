"""Training STAR.

objective.StarObjective   the loss
batches                   what a batch holds
weights                   what training starts from
validation                loss by timestep, PSNR of samples
samples                   its pictures and videos
assemble                  from a work directory to a checkpoint directory
"""
