"""Distillation to fewer evaluations: a ladder of objectives, each useful alone (docs/distillation.md).

guidance      the student's single branch matches the guided teacher: half the evaluations
one_step      one step from the low resolution, taught by the ground truth
dual_stream   distribution matching and a discriminator on features, from a model of one step

config        their settings
student, teacher, pixel_terms, distribution_matching, heads   what they are made of
"""
