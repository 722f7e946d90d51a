"""Videos and images as frames, uint8 [F, H, W, 3] RGB, with everything around the picture.

reader.VideoReader, images.ImageSequenceReader   reading
writer.VideoWriter, images.ImageSequenceWriter   writing, with the source's times, sound, subtitles and tags
probe                                            properties of a file
outputs                                          what must hold before any work starts
geometry                                         padding to the sizes that a network takes
"""
