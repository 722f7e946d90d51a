"""Training data, from files to batches.

sources.open_source   lists the records of a folder, a list, a prepared dataset, or made-up videos
clips.load_element    turns a record into an element: decodes, crops and degrades it
degradations/         recipes, the values drawn from them, and the operations on pixels
loader                groups elements into batches; exactly resumable
prepare/              writes datasets once, to be read many times
made_up/              synthetic videos
"""
