"""Training data, from files to batches.

sources.open_source   records from a folder, a list, a prepared dataset, or made-up videos
clips.load_element    a record becomes an element: decoded, cropped, degraded
degradations/         recipes, drawn values, pixels
loader                elements become batches, exactly resumable
prepare/              datasets written once, read many times
made_up/              videos that no camera took
"""
