"""Speed, memory and operations, measured and counted.

inference, pipeline   one network at a time, or a whole clip from frames to frames
training, data        the training step, and the loader that feeds it
layers                single layers, and operations that have several forms
aot/                  programs compiled for devices that this machine does not have
report, timing, plot  timing, reports and plots of all of these
"""
