"""Training STAR.

objective.StarObjective   the loss
networks                  the model applied to a training batch
batches                   contents of a batch
weights                   initial weights
validation                loss by timestep, PSNR of samples
samples                   pictures and videos of a validation
assemble                  turns a work directory into a checkpoint directory
merge                     writes trained weights over those of a checkpoint
"""
