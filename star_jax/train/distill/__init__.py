"""Distillation to fewer network evaluations: a ladder of objectives, each useful alone (docs/distillation.md).

guidance      the student's single branch matches the guided teacher: half the evaluations
one_step      one step from the low resolution, trained on the ground truth
dual_stream   distribution matching and a discriminator on features, starting from a one-step model

config        settings of these objectives
student, teacher, pixel_terms, distribution_matching, heads   their parts
"""
