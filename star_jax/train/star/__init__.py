"""Training STAR.

objective.StarObjective   the loss
batches                   what a batch holds
weights                   what training starts from
validation                loss by timestep, PSNR of samples, a picture
assemble                  from a work directory to a checkpoint directory
"""
