"""Speed, memory and operations, measured and counted.

inference, pipeline   one network at a time, or frames in and frames out
training, data        the training step, and the loader that feeds it
layers                single layers, and the forms of operations that have several
aot/                  programs compiled for devices that are not at hand
report, timing, plot  how all of these are timed, written down and drawn
"""
